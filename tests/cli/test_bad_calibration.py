"""Calibration data and files that are wrong, poor or odd, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

F = np.float32
RUN = ("-p", "quant", "-t", "ort-cpu", "--force", "-o", "out.onnx")


def notes(cli: Any, model: Path, *args: str) -> list[str]:
    code, _, err = cli("run", model, *RUN, "--json", "r.json", *args)
    assert code == 0, err
    passes = json.loads(Path("r.json").read_text())["passes"]
    return [note for p in passes if p["name"] == "quant" for note in p["notes"]]


def integers(path: str = "out.onnx") -> int:
    return sum(n.op_type == "QuantizeLinear" for n in onnx.load(path).graph.node)


def test_one_sample_is_enough_and_said(cli, model):
    np.savez("d.npz", image=np.random.default_rng(0).normal(size=(1, 2, 8, 8)).astype(F))
    assert "there is one sample only, and others may go beyond its ranges" in notes(cli, model, "--data", "d.npz")
    assert integers() > 0
    np.savez("d.npz", image=np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(F))
    assert not any("one sample" in note for note in notes(cli, model, "--data", "d.npz"))


@pytest.mark.parametrize("value", [0.0, 3.5, 1e-42])
def test_constant_samples(cli, model, value):
    np.savez("d.npz", image=np.full((4, 2, 8, 8), value, F))
    notes(cli, model, "--data", "d.npz")
    assert integers() > 0


def test_huge_outliers_are_said(cli, model):
    images = np.random.default_rng(0).normal(size=(4, 2, 8, 8)).astype(F)
    images[0, 0, 0, 0] = 1e30
    np.savez("d.npz", image=images)
    found = notes(cli, model, "--data", "d.npz", "--no-verify")
    assert "'image' reaches 1e+30: if that is in its range, what is small is rounded to 0" in found


def test_an_activation_that_overflows_is_said(cli, model):
    images = np.random.default_rng(0).normal(size=(4, 2, 8, 8)).astype(F)
    images[0] = 3e38
    np.savez("d.npz", image=images)
    found = notes(cli, model, "--data", "d.npz", "--no-verify")
    assert any("Inf during calibration; its range comes from" in note for note in found), found


def test_a_channel_of_zeros(cli, model):
    images = np.random.default_rng(0).normal(size=(4, 2, 8, 8)).astype(F)
    images[:, 1] = 0
    np.savez("d.npz", image=images)
    notes(cli, model, "--data", "d.npz")
    assert integers() > 0


SCRIPT = """import numpy as np


def good():
    for i in range(4):
        yield {"image": np.full((1, 2, 8, 8), i, np.float32)}


def raises():
    yield from good()
    raise OSError("disk")


def nothing():
    return []


def strange():
    yield "image"
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "calib.py:11: raises() raised OSError: disk\n  run again with -v for the traceback"),
        ("nothing", "the data has no samples"),
        ("strange", "sample 0: is str, not a dict of arrays\n  give a .npz or .npy file, a folder of them, or from Python a list of dicts of arrays"),
        ("god", "calib.py: there is no function 'god'\n  did you mean 'good'? Known: good, nothing, raises, strange"),
    ],
)  # fmt: skip
def test_functions_that_fail(cli, model, function, message):
    Path("calib.py").write_text(SCRIPT)
    code, out, err = cli("run", model, *RUN, "--data", f"calib.py:{function}")
    assert (code, out, err) == (2, "", f"graphopt: error: {message}\n") and not Path("out.onnx").exists()


def test_a_function_gives_the_samples(cli, model):
    Path("calib.py").write_text(SCRIPT)
    found = notes(cli, model, "--data", "calib.py:good", "--calib-mem", "1kB")
    assert any("from 4 batches" in note for note in found), found


def test_images_give_the_samples(cli, model):
    Path("photos").mkdir()
    for i in range(3):
        Image.fromarray(np.full((9, 12, 3), 80 * i, np.uint8)).save(f"photos/{i}.png")
    text = onnx.load(model)
    text.graph.node[1].input[0] = "two"
    text.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1]), "pair"))
    text.graph.node.insert(1, onnx.helper.make_node("Gather", ["a", "pair"], ["two"], axis=1))
    text.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(text, "rgb.onnx")
    notes(cli, Path("rgb.onnx"), "--data", "photos", "--preprocess", "resize=8,crop=8,scale=1/255,rgb")
    code, _, err = cli("run", "rgb.onnx", *RUN, "--data", "photos")
    hint = "say how they become inputs: --preprocess resize=256,crop=224,scale=1/255,layout=nchw,rgb"
    assert (code, err) == (2, f"graphopt: error: photos: images are no arrays yet\n  {hint}\n")
    code, _, err = cli("run", "rgb.onnx", *RUN, "--data", "photos", "--preprocess", "crop=9000")
    assert (code, err) == (2, "graphopt: error: photos/0.png: is 9x12, too small to crop 9000x9000 from\n  add resize=… to --preprocess\n")


@pytest.mark.parametrize("amount", ["lots", "0", "-3MB"])
def test_memory_that_is_none(cli, model, amount):
    code, _, err = cli("run", model, *RUN, f"--calib-mem={amount}")
    hint = "write a number and a unit, such as 512MiB or 2GB"
    assert (code, err) == (2, f"graphopt: error: {amount!r} is no amount of memory\n  {hint}\n")


def test_a_calibration_of_another_model(cli, model):
    np.savez("d.npz", image=np.random.default_rng(0).normal(size=(4, 2, 8, 8)).astype(F))
    notes(cli, model, "--data", "d.npz", "--calibration", "c.npz")
    first = Path("out.onnx").read_bytes()
    assert "ranges from c.npz" in notes(cli, model, "--calibration", "c.npz")
    assert Path("out.onnx").read_bytes() == first
    other = onnx.load(model)
    for node in other.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {"image": "picture"}.get(name, name)
    other.graph.input[0].name = "picture"
    onnx.save(other, "other.onnx")
    code, _, err = cli("run", "other.onnx", *RUN, "--calibration", "c.npz")
    assert (code, err) == (
        2,
        "graphopt: error: c.npz: is the calibration of another model: its inputs are 'image' [None, 2, 8, 8], and here "
        "'picture' [None, 2, 8, 8]\n  give another file to --calibration\n",
    )
    Path("c.npz").write_bytes(Path("c.npz").read_bytes()[:-99])
    code, _, err = cli("run", model, *RUN, "--calibration", "c.npz")
    hint = "remove it, and it is written anew from the data"
    assert (code, err) == (2, f"graphopt: error: c.npz: is damaged, or no calibration of graphopt's\n  {hint}\n")


def test_a_calibration_without_quant(cli, model):
    code, _, err = cli("run", model, "-p", "cleanup", "--calibration", "c.npz")
    assert (code, err) == (2, "graphopt: error: no pass of this run takes calibration\n  such as -p fuse,quant\n")
