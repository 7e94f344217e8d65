"""Flags that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

AllowLinks = Annotated[
    bool, typer.Option("--allow-links", help="Follow links to external data that lead out of the model's folder.")
]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write it as JSON instead; - is stdout.")]
# `main` looks for it itself, because errors end up there; here it is for the help.
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of an error.")]

# Which rewrites are made: what `run` takes, and whoever repeats what it did.
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rules",
        metavar="FILE.py",
        help="A file of rules, which is executed; -p takes its name. If it does not, they run behind the passes, "
        "but before quant. Repeatable.",
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option("--select", metavar="PATTERN", help="Apply these rules only, such as 'fuse.gelu_*'. Repeatable."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="PATTERN",
        help="Make no rewrites with such a name, be they of rules or of passes. Repeatable. See: graphopt rules list",
    ),
]
Protect = Annotated[
    list[str] | None,
    typer.Option(
        "--protect",
        metavar="PATTERN",
        help="Leave alone the nodes and values with such a name, or such operators: '/head/*', op:Softmax, "
        "'op:com.microsoft.*'. Repeatable.",
    ),
]
KeepGoing = Annotated[
    bool | None, typer.Option("--keep-going", help="Switch off a rule that raises, and go on without it.")
]
Level = Annotated[
    str | None,
    typer.Option(
        "-O",
        "--level",
        metavar="0..3",
        help="0 nothing, 1 what keeps every bit, 2 also what reorders arithmetic (default), "
        "3 also what only this target knows. With -p, how far those passes may go.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--target",
        metavar="NAME",
        help="Where the model will run; onnx, which is anywhere, by default. See: graphopt targets",
    ),
]

Data = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Samples to calibrate and verify with: an .npz or .npy file, a folder of them or of images, or "
        "FILE.py:FUNCTION, which returns dicts of arrays.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess", metavar="RECIPE",
        help="How images of --data become inputs: resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,"
        "std=0.229:0.224:0.225,layout=nchw,rgb",
    ),
]  # fmt: skip

# The form that a model is to have.
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--inputs", metavar="NAMES",
        help="Take these values, in this order: inputs of the model, or values inside of it. Separated by commas.",
    ),
]  # fmt: skip
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--outputs", metavar="NAMES",
        help="Give these values, in this order, and drop what they do not need. Separated by commas.",
    ),
]  # fmt: skip
Rename = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="OLD=NEW", help="Give an input or output another name. Repeatable."),
]
Freeze = Annotated[
    bool | None, typer.Option("--freeze", help="Make constants of the inputs that have a default value.")
]
Before = Annotated[
    str | None, typer.Option("--before", metavar="FILE", help="Put this model in front, such as pre-processing.")
]
After = Annotated[
    str | None, typer.Option("--after", metavar="FILE", help="Put this model behind, such as post-processing.")
]
Connect = Annotated[
    list[str] | None,
    typer.Option(
        "--connect", metavar="OUTPUT=INPUT",
        help="Which output goes to which input, where names do not say so. Repeatable.",
    ),
]  # fmt: skip
Opset = Annotated[
    str | None,
    typer.Option(
        "--opset", metavar="N",
        help="Convert to this version of the standard operators first, with onnx's converter.",
    ),
]  # fmt: skip
Strip = Annotated[
    bool | None, typer.Option("--strip", help="Write no descriptions and no metadata; they are kept otherwise.")
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="INPUT:1,3,224,224",
        help="Give an input these sizes; without INPUT: the only one. ? leaves a size as it is. Repeatable.",
    ),
]
Dim = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        metavar="NAME=N",
        help="Set a size by its name, or as INPUT:AXIS=N. batch=? frees the first axis of all inputs, INPUT:AXIS=batch "
        "that one; constants that have the batch built in are mended. Repeatable.",
    ),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="The most by which the metric of --eval may fall, in percent of the original's; 1 with quant, which "
        "keeps in float what costs more. Beyond it, nothing is written, and the exit code is 5.",
    ),
]
Force = Annotated[
    bool | None, typer.Option("--force", help="Keep what quant made even if it is not faster than the float model.")
]
MinSpeedup = Annotated[
    str | None,
    typer.Option(
        metavar="FACTOR",
        help="Write nothing, and exit with 5, if quant does not make the model this many times as fast.",
    ),
]
Sensitivity = Annotated[
    bool | None,
    typer.Option("--sensitivity", help="Show what quantizing each layer costs, the worst first, and why."),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.json",
        help="Write down what the search for --max-drop has measured, and go on with what is there.",
    ),
]
Seed = Annotated[str | None, typer.Option(metavar="N", help="Seed of made-up inputs; 0 by default.")]

# What an engine is built for.
Sm = Annotated[
    str | None, typer.Option(metavar="LIST", help="Compute capabilities that an engine is built for: 80,86.")
]
Profile = Annotated[
    list[str] | None,
    typer.Option(
        metavar="INPUT=MIN:OPT:MAX",
        help="The shapes that an engine takes: x=1x3x224x224:8x3x224x224:32x3x224x224. Repeatable.",
    ),
]
