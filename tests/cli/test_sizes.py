"""`--shape` and `--dim`: sizes that are set or freed on the command line, and in its configuration."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser


def sizes(path):
    graph = onnx.load(path).graph
    return [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.output]
    ]


@pytest.fixture
def fixed(tmp_path):
    """A model for one sample, with a Reshape that says so."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        one (float[1, 2, 3] x) => (float[1, 6] y) { r = Reshape (x, t) y = Relu (r) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 6]), "t"))
    path = tmp_path / "one.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_named_size_is_set(cli, model):
    code, _, err = cli("run", model, "-O0", "--dim", "batch=3", "-o", "out.onnx")
    assert (code, err) == (0, "")
    assert sizes("out.onnx") == [[3, 2, 8, 8], [3, 4, 8, 8]]


@pytest.mark.parametrize("shape", ["image:3,2,8,8", "3,2,8,8", "image:3x2x8x8", "3,?,?,?"])
def test_a_shape_is_set(cli, model, shape):
    assert cli("run", model, "-O0", "--shape", shape, "-q", "-o", "out.onnx") == (0, "", "")
    assert sizes("out.onnx") == [[3, 2, 8, 8], [3, 4, 8, 8]]


def test_the_batch_is_freed_and_checked(cli, fixed):
    code, out, err = cli("run", fixed, "--dim", "batch=?", "-o", "out.onnx")
    assert (code, err) == (0, "")
    assert sizes("out.onnx") == [["batch", 2, 3], ["batch", 6]]
    assert "the batch is free as 'batch': compared with the original at 1, 2, 3 samples" in out


def test_one_axis_is_freed_under_a_name(cli, fixed):
    code, out, _ = cli("run", fixed, "--dim", "x:0=N", "--no-verify", "-o", "out.onnx")
    assert code == 0 and "not compared with the original" in out
    assert sizes("out.onnx") == [["N", 2, 3], ["N", 6]]


def test_free_and_set_again(cli, fixed):
    assert cli("run", fixed, "--dim", "batch=?", "-q", "-o", "free.onnx").code == 0
    assert cli("run", "free.onnx", "--dim", "batch=5", "-q", "-o", "five.onnx").code == 0
    assert sizes("five.onnx") == [[5, 2, 3], [5, 6]]


def test_settings_in_a_file(cli, model, tmp_path):
    (tmp_path / "graphopt.toml").write_text('dim = ["batch=3"]\nlevel = 0\n')
    assert cli("run", model, "--config", "graphopt.toml", "-q", "-o", "out.onnx").code == 0
    assert sizes("out.onnx")[0] == [3, 2, 8, 8]


def test_inspect_counts_for_these_sizes(cli, model):
    def macs(*flags):
        return json.loads(cli("inspect", model, "--json", "-", *flags).out)["macs"]

    assert macs("--dim", "batch=6") == 2 * macs("--shape", "3,2,8,8")
    code, _, err = cli("inspect", model, "--dim", "batch=?")
    assert code == 2 and "inspect sets sizes, and frees none" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dim", "bach=3"], "no input has a size that is called 'bach'\n  did you mean 'batch'?"),
        (["--dim", "batch"], "--dim batch: this sets no size\n  write batch=1"),
        (["--dim", "batch=-3"], "batch=-3: a size cannot be -3"),
        (["--dim", "batch=3", "--dim", "batch=4"], "--dim batch=4: 'batch' is set twice"),
        (["--dim", "batch=3", "--shape", "4,2,8,8"], "a size cannot be 4: it is also set to 3"),
        (["--shape", "3,2,8,9"], "image, axis 3: a size cannot be 9: the model has 8\n  it is [batch, 2, 8, 8]"),
        (["--shape", "3,2,8"], "image: the shape has 3 axes, but the input has 4"),
        (["--shape", "imag:3,2,8,8"], "there is no input 'imag'\n  did you mean 'image'?"),
        (["--shape", "image:a,b"], "--shape image:a,b: this is no shape"),
        (["--dim", "image:1=?", "--dim", "image:2=?"], "image: only one axis of an input can be the batch"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(cli, model, flags, message):
    code, out, err = cli("run", model, "-O0", *flags, "-o", "out.onnx")
    assert (code, out) == (2, "") and message in err


def test_a_batch_that_cannot_be_freed(cli, tmp_path):
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        mean (float[2, 3] x) => (float[1, 3] y) { y = ReduceMean <axes = [0]> (x) }"""
    (tmp_path / "mean.onnx").write_bytes(parser.parse_model(text).SerializeToString())
    code, _, err = cli("run", "mean.onnx", "--dim", "batch=?")
    assert code == 2
    assert "the batch cannot be freed behind this ReduceMean: it works across samples" in err
