"""`graphopt run`: optimize a model, check it, write it, and say what that was worth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.config import Settings, resolve
from graphopt.cli.flags import (
    After,
    Before,
    Connect,
    Data,
    Dim,
    Force,
    Freeze,
    Ignore,
    Inputs,
    KeepGoing,
    Level,
    MaxDrop,
    MinSpeedup,
    Opset,
    Outputs,
    Preprocess,
    Profile,
    Protect,
    Rename,
    Resume,
    Rules,
    Seed,
    Select,
    Sensitivity,
    Shape,
    Sm,
    Strip,
    Target,
)
from graphopt.errors import GateError, UsageError, nearest_file

if TYPE_CHECKING:
    from graphopt.report.report import Report


def run(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX file.", show_default=False)],
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--passes",
            metavar="LIST",
            help="Passes or presets, separated by commas or spaces, with options in braces: "
            "fuse,quant{method=percentile}. Without it, the preset of -O. See: graphopt passes",
        ),
    ] = None,
    rules: Rules = None,
    select: Select = None,
    ignore: Ignore = None,
    protect: Protect = None,
    keep_going: KeepGoing = None,
    shape: Shape = None,
    dim: Dim = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    rename: Rename = None,
    freeze: Freeze = None,
    before: Before = None,
    after: After = None,
    connect: Connect = None,
    opset: Opset = None,
    strip: Strip = None,
    level: Level = None,
    target: Target = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="What to write; the suffix chooses the form. By default MODEL.opt.onnx beside the input. "
            "It may be MODEL itself.",
        ),
    ] = None,
    data: Data = None,
    preprocess: Preprocess = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.npz",
            help="Statistics for quant: written if the file does not exist, used instead of the data if it does.",
        ),
    ] = None,
    calib_mem: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="The activations that calibration holds at a time; 512MiB by default."),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="FILE.py:FUNCTION",
            help="Measure the original and the result with this function: it gets one that runs a model, "
            "dict of arrays to dict of arrays, and returns a number, higher being better.",
        ),
    ] = None,
    max_drop: MaxDrop = None,
    force: Force = None,
    min_speedup: MinSpeedup = None,
    sensitivity: Sensitivity = None,
    resume: Resume = None,
    verify: Annotated[
        str | None,
        typer.Option(
            "--verify",
            metavar="[=end|pass|local]",
            help="Check that the result computes what the original does: at the end (default), after each pass too, or "
            "for each rewrite, whose region is computed before and after.",
        ),
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not check what the result computes.")] = False,
    bench: Annotated[
        bool | None, typer.Option("--bench", help="Time the original and the result under ONNX Runtime, in turns.")
    ] = None,
    stop_after: Annotated[str | None, typer.Option(metavar="K", help="Apply the first K rewrites only.")] = None,
    seed: Seed = None,
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--inline",
            help="Weights in a file of their own, or in the model. By default as in the input.",
        ),
    ] = None,
    sm: Sm = None,
    profile: Profile = None,
    allow_links: Annotated[
        bool | None,
        typer.Option("--allow-links", help="Follow links to external data that lead out of the model's folder."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the passes that would run, and do nothing.")] = False,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write the report as JSON; - is stdout.")
    ] = None,
    stats: Annotated[
        bool | None,
        typer.Option("--stats", help="Show for each rule how often it was tried, fired, declined and why; its time."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings in TOML, under the names of these flags. [tool.graphopt] of ./pyproject.toml "
            "is read, too; flags win over FILE, and FILE over that.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Say what is being done; show the traceback of an error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Optimize a model, verify it, and write it.

    \b
    graphopt run model.onnx
    graphopt run model.onnx -p fuse,quant -t ort-cpu --data samples.npz
    graphopt run model.onnx -O3 -t tensorrt-rtx -o model.engine --sm 86,89
    """
    from graphopt.runtime.executor import executor

    began = time.perf_counter() - time.process_time()  # about when Python was started
    if no_verify and verify:
        raise UsageError("--verify and --no-verify exclude each other")
    path, passes = positional([model, *ctx.args], passes or [], rules or [])
    flags: dict[str, Any] = {
        "passes": passes or None, "rules": rules or None, "select": select or None, "ignore": ignore or None,
        "protect": protect or None, "keep-going": keep_going, "shape": shape or None, "dim": dim or None,
        "inputs": inputs or None, "outputs": outputs or None, "rename": rename or None,
        "freeze": freeze,
        "before": before, "after": after, "connect": connect or None, "opset": opset, "strip": strip,
        "level": level, "target": target, "output": output,
        "data": data, "preprocess": preprocess, "calibration": calibration, "calib-mem": calib_mem,
        "eval": evaluate, "max-drop": max_drop,
        "force": force, "min-speedup": min_speedup,
        "sensitivity": sensitivity, "resume": resume, "verify": False if no_verify else verify,
        "bench": bench, "stop-after": stop_after, "seed": seed, "external-data": external_data, "sm": sm,
        "profile": profile or None, "allow-links": allow_links, "json": json, "stats": stats,
    }  # fmt: skip
    settings = resolve(flags, config)
    _check(path, settings)
    if settings.verify or settings.bench:
        executor().warm()  # it starts while the engine is imported here
    settings.check_spelling()
    if dry_run:
        from graphopt.cli.plan import show_plan

        show_plan(path, settings)
    else:
        try:
            _run(path, settings, began, verbose=verbose, quiet=quiet)
        except GateError as missed:
            if missed.report is not None:
                _present(missed.report, settings, began, quiet=quiet)
            raise


def positional(given: list[str], passes: list[str], rules: list[str]) -> tuple[Path, list[str]]:
    """The model, and the passes: those behind `-p fuse quant` arrive as arguments of their own."""
    if len(given) > 1 and passes:
        from graphopt.engine.registry import pass_names, presets
        from graphopt.engine.rules_file import load_rules_file

        files = [load_rules_file(file) for file in rules]
        known = {*pass_names(), *presets(), *(kind.name for file in files for kind in file.passes)}
        more = [word for word in given if word.partition("{")[0].strip(",") in known]
        given = [word for word in given if word not in more]
        passes = [*passes, *more]
    if len(given) != 1:
        extra = repr(given[1]) if given else "passes only"
        is_code = given[1:] and given[1].endswith(".py")
        hint = "each file of rules has a --rules of its own" if is_code else "see graphopt run --help"
        raise UsageError(f"one model at a time, but there is {extra}", hint=hint)
    return Path(given[0]), passes


def _check(path: Path, settings: Settings) -> None:
    """What can be known to fail is said before any work is done."""
    from graphopt.cli.output import check_place
    from graphopt.emit.emitter import emitter_for
    from graphopt.targets.target import load_target

    check_input(path, settings, quantized=True)
    output = output_path(path, settings)
    emitter_for(output, load_target(settings.target).name)
    if _is_there(output) and output.is_dir():
        raise UsageError("the output is a folder", where=str(output), hint="name a file in it")
    if not output.parent.is_dir():
        if output.parent.exists():
            raise UsageError("the output's folder is a file", where=str(output), hint="name a folder")
        raise UsageError("the output's folder does not exist", where=str(output), hint=f"mkdir -p {output.parent}")
    if settings.json is not None:
        check_place(settings.json, path, output)


def check_input(path: Path, settings: Settings, *, quantized: bool = False) -> None:
    """Say what is wrong with the model's path, the data and the gate before any work is done.

    `quantized`: a model that is quantized needs no metric, for it can be compared with the float model.
    """
    if not _is_there(path):
        raise UsageError("there is no such file", where=str(path), hint=nearest_file(path))
    if path.is_dir():
        raise UsageError("is a directory, not a file", where=str(path))
    if settings.max_drop is not None and settings.eval is None and not (quantized and "quant" in settings.passes):
        raise UsageError("--max-drop needs a metric", hint="give one with --eval FILE.py:FUNCTION")
    if settings.data is not None:
        check_data(settings.data)


def check_data(data: Path) -> None:
    """Raises `UsageError` if no data is there; a function is looked for when it is called."""
    from graphopt.verify.script import is_function

    if not is_function(str(data)) and not _is_there(data):
        hint = "give an .npz or .npy file, a folder of them or of images, or FILE.py:FUNCTION"
        raise UsageError("there is no such data", where=str(data), hint=hint)


def _is_there(path: Path) -> bool:
    """Whether anything is there. Raises `UsageError` for what cannot be a path."""
    if "\0" in str(path):
        raise UsageError("is no path: it has a zero byte", where=repr(str(path)))
    try:
        return path.exists()
    except OSError as error:
        raise UsageError(f"is no path: {error.strerror}", where=str(path)) from None


def output_path(path: Path, settings: Settings) -> Path:
    return settings.output or path.with_name(f"{path.stem}.opt.onnx")


def pipeline_of(settings: Settings) -> tuple[str, str | None]:
    """The passes to run, and the accuracy class, None where the passes decide."""
    from graphopt.engine.registry import presets

    preset = f"O{settings.level if settings.level is not None else 2}"
    first = "" if settings.opset is None else f"opset{{to={settings.opset}}},"
    if not settings.passes:
        return first + preset, None
    return first + settings.passes, presets()[preset].accuracy if settings.level is not None else None


def _run(path: Path, settings: Settings, began: float, *, verbose: bool, quiet: bool) -> None:
    import graphopt
    from graphopt.cli.evaluate import load_metric
    from graphopt.cli.progress import progress
    from graphopt.cli.terminal import log
    from graphopt.emit.profile import parse_profile

    passes, accuracy = pipeline_of(settings)
    metric = load_metric(settings.eval) if settings.eval is not None else None
    options: dict[str, Any] = {"external": settings.external_data, "strip": settings.strip}
    if settings.sm:
        options["sm"] = settings.sm
    if settings.profile:
        options["profile"] = dict(parse_profile(text) for text in settings.profile)
    with progress(verbose=verbose, quiet=quiet) as show:
        result = graphopt.optimize(
            path,
            passes,
            **settings.choice,
            **settings.sizes,
            **settings.interface,
            target=settings.target,
            data=settings.data,
            preprocess=settings.preprocess,
            calibration=settings.calibration,
            calib_mem=settings.calib_mem,
            evaluate=metric,
            **settings.goals,
            verify=settings.verify,
            accuracy=accuracy,
            bench=settings.bench,
            stats=settings.stats,
            stop_after=settings.stop_after,
            seed=settings.seed,
            allow_links=settings.allow_links,
            progress=show,
        )
        show("save", 0, None)
        start = time.perf_counter()
        emitted = result.save(output_path(path, settings), **options)
        result.report.seconds["save"] = time.perf_counter() - start
    _present(result.report, settings, began, quiet=quiet)
    if verbose:
        for file in emitted.files:
            log(f"wrote {file}")


def _present(report: Report, settings: Settings, began: float, *, quiet: bool) -> None:
    """The table on stdout, the JSON where it was asked for; on stdout the JSON stands alone."""
    from graphopt.cli.terminal import show
    from graphopt.report.table import render

    seconds = report.seconds
    seconds["start"] = max(0.0, time.perf_counter() - began - sum(seconds.values()))
    if not quiet:
        show(render(report, stats=settings.stats), to_stderr=settings.json == "-")
    if settings.json is not None:
        from graphopt.cli.output import write_json
        from graphopt.report.json import to_json

        write_json(to_json(report), settings.json)
