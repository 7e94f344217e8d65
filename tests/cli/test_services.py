"""What people do to models besides optimizing them: parts, names, opsets, half precision, functions, metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tests.cli.conftest import Cli

TEXT = """
<ir_version: 10, opset_import: ["" : 17, "my" : 1], doc_string: "a model", metadata_props: ["author": "me"]>
g (float[N,4] x, float[N,4] z) => (float[N,3] y, float[N,4] s) {
    a = my.halved(x)
    b = Add(a, z)
    m = ReduceMean <axes = [1]> (b)
    s = Sub(b, m)
    y = MatMul(s, w)
}
<domain: "my", opset_import: ["" : 17]>
halved (x) => (y) { two = Constant <value = float {2}> () y = Div(x, two) }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = parser.parse_model(TEXT)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w"))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def ok(cli: Cli, *args: str | Path) -> str:
    code, out, err = cli("run", *args)
    assert code == 0, err
    return out


def fails(cli: Cli, code: int, *args: str | Path) -> str:
    found, _, err = cli("run", *args)
    assert found == code, err
    return err


def names(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    return [v.name for v in model.graph.input], [v.name for v in model.graph.output]


def test_extract_rename_and_reorder(cli: Cli, source: Path, tmp_path: Path) -> None:
    made = tmp_path / "part.onnx"
    ok(cli, source, "-O0", "--inputs", "z,a", "--outputs", "y", "--rename", "y=logits", "-o", made)
    model = onnx.load(made)
    assert names(model) == (["z", "a"], ["logits"])
    assert not model.functions


def test_two_parts_are_the_whole(cli: Cli, source: Path, tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    head, tail = tmp_path / "head.onnx", tmp_path / "tail.onnx"
    ok(cli, source, "-O0", "--outputs", "b", "-o", head)
    ok(cli, source, "-O0", "--inputs", "b", "-o", tail)
    feeds = {"x": np.ones((2, 4), np.float32), "z": np.arange(8, dtype=np.float32).reshape(2, 4)}
    middle = ReferenceEvaluator(str(head)).run(None, feeds)[0]
    whole = ReferenceEvaluator(str(source)).run(None, feeds)
    for a, b in zip(whole, ReferenceEvaluator(str(tail)).run(None, {"b": middle}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_pre_and_postprocessing_become_part_of_the_model(cli: Cli, source: Path, tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    opset = '<ir_version: 10, opset_import: ["" : 17]>'
    onnx.save(parser.parse_model(f"{opset} g (uint8[N,4] image) => (float[N,4] scaled) {{ scaled = Cast <to = 1> (image) }}"),
              tmp_path / "pre.onnx")  # fmt: skip
    onnx.save(parser.parse_model(f"{opset} g (float[N,3] y) => (int64[N,1] best) {{ best = ArgMax <axis = 1> (y) }}"),
              tmp_path / "post.onnx")  # fmt: skip
    made = tmp_path / "all.onnx"
    ok(cli, source, "--before", "pre.onnx", "--after", "post.onnx", "--connect", "scaled=x", "-o", made)
    model = onnx.load(made)
    assert names(model) == (["image", "z"], ["s", "best"])
    feeds = {"image": np.array([[1, 2, 3, 250]], np.uint8), "z": np.ones((1, 4), np.float32)}
    plain = ReferenceEvaluator(str(source)).run(["y"], {"x": feeds["image"].astype(np.float32), "z": feeds["z"]})[0]
    found = ReferenceEvaluator(str(made)).run(["best"], feeds)[0]
    assert found.item() == plain.argmax()


def test_another_opset(cli: Cli, source: Path, tmp_path: Path) -> None:
    made = tmp_path / "new.onnx"
    ok(cli, source, "-p", "inline,opset{to=21}", "-o", made)
    model = onnx.load(made)
    assert {o.domain: o.version for o in model.opset_import} == {"": 21}
    assert not model.functions
    mean = next(n for n in model.graph.node if n.op_type == "ReduceMean")
    assert len(mean.input) == 2, "the axes are an input by now"


def test_functions_stop_the_converter_and_it_says_what_to_do(cli: Cli, source: Path, tmp_path: Path) -> None:
    error = fails(cli, 1, source, "--opset", "21", "-o", tmp_path / "new.onnx")
    assert "put the pass inline in front" in error
    assert not (tmp_path / "new.onnx").exists()


def test_functions_are_kept_unless_asked(cli: Cli, source: Path, tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept.onnx", tmp_path / "gone.onnx"
    ok(cli, source, "-o", kept)
    ok(cli, source, "-p", "inline", "-o", gone)
    assert len(onnx.load(kept).functions) == 1 and not onnx.load(gone).functions


def test_metadata_goes_on_request_only(cli: Cli, source: Path, tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept.onnx", tmp_path / "gone.onnx"
    ok(cli, source, "-o", kept)
    ok(cli, source, "--strip", "-o", gone)
    assert onnx.load(kept).doc_string == "a model" and onnx.load(kept).metadata_props[0].value == "me"
    model = onnx.load(gone)
    assert not model.doc_string and not model.metadata_props
    assert not any(n.metadata_props or n.doc_string for n in model.graph.node)


def test_half(cli: Cli, source: Path, tmp_path: Path) -> None:
    made = tmp_path / "half.onnx"
    out = ok(cli, source, "-p", "inline,half", "-o", made)
    assert "nodes in float16" in out
    assert {t.data_type for t in onnx.load(made).graph.initializer} >= {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--outputs", "nothing"], "the model has no value 'nothing'"),
        (["--inputs", "x"], "the outputs also depend on the input 'z'"),
        (["--rename", "x"], "these are no two names"),
        (["--opset", "six"], "opset"),
        (["--opset", "5"], "opset"),
        (["--opset", "999"], "opset 999 is not known"),
        (["-p", "opset"], "there is no version to convert to"),
        (["-p", "half{dtype=float8}"], "dtype"),
    ],
)
def test_what_cannot_be_is_a_usage_error(cli: Cli, source: Path, tmp_path: Path, flags: list[str], words: str) -> None:
    assert words in fails(cli, 2, source, *flags, "-o", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
