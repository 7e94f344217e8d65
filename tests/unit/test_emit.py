"""The seam of the emitters, ONNX files, and engines for GPUs that are not here."""

from __future__ import annotations

import importlib.util
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as oir
import pytest

from graphopt.emit import emitter as seam
from graphopt.emit.emitter import EmitOptions, Emitted, Emitter, emitter_for, emitters
from graphopt.emit.onnx import OnnxEmitter
from graphopt.emit.profile import Range, parse_profile, profile_for
from graphopt.emit.tensorrt import TensorRTEmitter
from graphopt.emit.tensorrt_build import refusal
from graphopt.errors import TargetError, UsageError, VerificationError
from graphopt.interop.convert import to_ir
from graphopt.ir.files import Replacement
from graphopt.ir.model import Model

MLP = """
<ir_version: 8, opset_import: ["": 17]>
mlp (float[{batch}, 16] x) => (float[{batch}, 4] y)
<float[16, 4] w = {{{weights}}}>
{{ h = MatMul(x, w)  y = Relu(h) }}
"""


def load(text: str) -> Model:
    return Model(*to_ir(onnx.parser.parse_model(text)))


def mlp(batch: str = "2") -> Model:
    return load(MLP.format(batch=batch, weights=", ".join(str(i / 10) for i in range(64))))


def inputs(*values: tuple[str, list[int | str]]) -> oir.Graph:
    made = [
        oir.Value(name=name, shape=oir.Shape(shape), type=oir.TensorType(oir.DataType.FLOAT)) for name, shape in values
    ]
    return oir.Graph(made, [], nodes=[], name="g")


# the seam


def test_the_suffix_chooses_the_emitter() -> None:
    assert isinstance(emitter_for("model.onnx"), OnnxEmitter)
    assert isinstance(emitter_for(Path("MODEL.ONNX"), "ort-cpu"), OnnxEmitter)
    assert isinstance(emitter_for("a.b/model.engine", "tensorrt-rtx"), TensorRTEmitter)
    assert set(emitters()) >= {"onnx", "tensorrt"}


def test_an_unknown_suffix_names_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        emitter_for("model.onx")
    assert str(error.value) == ("model.onx: no emitter writes '.onx'\n  did you mean '.onnx'? Known: .engine, .onnx")
    with pytest.raises(UsageError, match="no emitter writes 'files without a suffix'"):
        emitter_for("model")


def test_a_suffix_that_the_target_has_no_emitter_for() -> None:
    with pytest.raises(UsageError) as error:
        emitter_for("model.engine", "ort-cpu")
    assert str(error.value) == (
        "model.engine: a .engine file cannot be built for the target 'ort-cpu'\n"
        "  choose the target tensorrt-rtx, or another suffix: .engine, .onnx"
    )


class Text(Emitter):
    """What somebody else would write."""

    name = "text"
    suffixes = (".onnx.txt", ".txt")

    def emit(self, model: Model, path: Path, options: EmitOptions) -> Emitted:
        path.write_text(str(model.ir.graph.name))
        return Emitted((path,), path.stat().st_size)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two foreign emitters: one that works, one whose package is broken."""
    ours = seam.entry_points(group=seam.GROUP)
    theirs = [
        EntryPoint("text", f"{__name__}:Text", seam.GROUP),
        EntryPoint("broken", "no_such_package:Emitter", seam.GROUP),
    ]
    monkeypatch.setattr(EntryPoint, "load", lambda p: Text if p.name == "text" else _import(p))
    monkeypatch.setattr(seam, "entry_points", lambda group: [*ours, *theirs])
    for cached in (seam.emitters, seam._load, seam._failure):
        cached.cache_clear()


def _import(point: EntryPoint) -> object:
    return getattr(importlib.import_module(point.module), point.attr)


@pytest.fixture(autouse=True)
def fresh_emitters() -> object:
    yield
    for cached in (seam.emitters, seam._load, seam._failure):
        cached.cache_clear()


@pytest.mark.usefixtures("foreign")
def test_anybodys_emitter_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.txt"
    assert emitter_for(path).emit(mlp(), path, EmitOptions()).files == (path,)
    assert path.read_text() == "mlp"


@pytest.mark.usefixtures("foreign")
def test_a_broken_emitter_is_named_where_its_suffix_is_missed() -> None:
    assert isinstance(emitter_for("model.onnx"), OnnxEmitter)
    with pytest.raises(UsageError) as error:
        emitter_for("model.plan")
    assert "could not be imported: broken (ModuleNotFoundError: No module named 'no_such_package')" in (
        error.value.hint or ""
    )


# onnx


def test_an_onnx_file_is_written_and_checks(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    emitted = OnnxEmitter().emit(mlp(), path, EmitOptions())
    assert emitted == Emitted((path,), path.stat().st_size, ())
    onnx.checker.check_model(path, full_check=True)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    model = mlp()
    model.ir.graph.initializers["w"].const_value = oir.tensor(np.zeros((16, 4)).repeat(9, 1).astype("f4")[:, :36])
    emitted = OnnxEmitter().emit(model, tmp_path / "out.onnx", EmitOptions(external=True))
    assert {f.name for f in emitted.files} == {"out.onnx", "out.onnx.data"}
    assert emitted.bytes == sum(f.stat().st_size for f in tmp_path.iterdir())


def test_only_the_operator_sets_in_use_are_imported(tmp_path: Path) -> None:
    model = load("""
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "unused": 3, "local": 1]>
        g (float[2] x, bool c) => (float[2] y) {
          z = local.twice(x)
          y = If(c) <then_branch = p () => (float[2] a) { a = com.microsoft.Gelu(z) },
                     else_branch = q () => (float[2] b) { b = Identity(z) }>
        }
        <domain: "local", opset_import: ["": 17, "unused": 3]> twice (v) => (w) { w = Add(v, v) }""")
    path = tmp_path / "out.onnx"
    OnnxEmitter().emit(model, path, EmitOptions())
    written = onnx.load(path)
    assert {e.domain: e.version for e in written.opset_import} == {"": 17, "com.microsoft": 1, "local": 1}
    assert {e.domain: e.version for e in written.functions[0].opset_import} == {"": 17}
    assert model.ir.opset_imports["unused"] == 3


def test_a_custom_operator_set_that_was_not_imported_is_added(tmp_path: Path) -> None:
    model = mlp()
    model.ir.graph.node(1).domain = "com.example"
    path = tmp_path / "out.onnx"
    OnnxEmitter().emit(model, path, EmitOptions())
    assert {e.domain: e.version for e in onnx.load(path).opset_import} == {"": 17, "com.example": 1}


def test_an_output_without_a_shape_is_written(tmp_path: Path) -> None:
    model = mlp()
    model.ir.graph.outputs[0].shape = None
    path = tmp_path / "out.onnx"
    OnnxEmitter().emit(model, path, EmitOptions())
    assert not onnx.load(path).graph.output[0].type.tensor_type.HasField("shape")


def test_a_model_that_does_not_check_is_not_written(tmp_path: Path) -> None:
    model = mlp()
    model.ir.graph.node(1).op_type = "Rely"
    path = tmp_path / "out.onnx"
    path.write_bytes(b"what was there before")
    with pytest.raises(VerificationError) as error:
        OnnxEmitter().emit(model, path, EmitOptions())
    assert error.value.what.startswith("the result is not a valid ONNX model: No Op registered for Rely")
    assert error.value.where == str(path)
    assert error.value.hint == "nothing was written; find the rewrite to blame with graphopt bisect"
    assert path.read_bytes() == b"what was there before"
    assert [f.name for f in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("operator", ["ImageScaler", "LayerNormalization"])
def test_operators_that_onnx_does_not_know_are_kept_and_leave_the_output_clean(
    operator: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Withdrawn, or known to ONNX Runtime only (LayerNormalization before opset 17)."""
    model = load(f'<ir_version: 8, opset_import: ["": 11]> g (float[2] x) => (float[2] y) {{ y = {operator}(x, x) }}')
    OnnxEmitter().emit(model, tmp_path / "out.onnx", EmitOptions())
    assert onnx.load(tmp_path / "out.onnx").graph.node[0].op_type == operator
    assert capfd.readouterr().out == ""


# profiles


def test_a_profile_is_read_from_text() -> None:
    assert parse_profile("x=1x3x8x8:2x3x8x8:4x3x8x8") == ("x", Range((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)))
    assert parse_profile("in:0=5") == ("in:0", Range((5,), (5,), (5,)))
    assert str(parse_profile("x=1x3:2x3:4x3")[1]) == "1x3:2x3:4x3"


@pytest.mark.parametrize("text", ["x", "=1", "x=", "x=1:2", "x=1x:2:3", "x=a", "x=1,2"])
def test_a_profile_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the profile"):
        parse_profile(text)


@pytest.mark.parametrize("text", ["x=2:1:3", "x=1x2:1:1"])
def test_a_profile_that_does_not_grow(text: str) -> None:
    with pytest.raises(UsageError, match="does not grow from its smallest to its largest shape"):
        parse_profile(text)


def test_ranges_that_are_assumed_follow_names_then_places() -> None:
    graph = inputs(
        ("ids", ["batch", "sequence_length"]),
        ("image", ["N", 3, "height", "s1"]),
        ("plain", ["s0", "s1", 8]),
        ("negative", [-1, 3]),
        ("fixed", [2, 3]),
    )
    profile, notes = profile_for(graph, {})
    assert {name: str(chosen) for name, chosen in profile.items()} == {
        "ids": "1x1:8x128:32x512",
        "image": "1x3x64x64:8x3x256x256:32x3x1024x1024",
        "plain": "1x1x8:8x128x8:32x512x8",
        "negative": "1x3:8x3:32x3",
    }
    assert notes[0] == "assumed the profile ids=1x1:8x128:32x512"
    assert len(notes) == 4


def test_a_given_range_is_taken_and_checked() -> None:
    graph = inputs(("x", ["n", 3]))
    given = {"x": Range((2, 3), (2, 3), (2, 3))}
    assert profile_for(graph, given) == (given, [])
    with pytest.raises(UsageError) as error:
        profile_for(graph, {"x": Range((1, 4), (1, 4), (1, 4))})
    assert str(error.value) == ("the profile 1x4:1x4:1x4 does not fit the shape of the input 'x'\n  its shape is ?x3")
    with pytest.raises(UsageError) as error:
        profile_for(graph, {"xx": given["x"]})
    assert str(error.value) == "the profile names no input: 'xx'\n  did you mean 'x'? Known: x"


# tensorrt


def test_without_the_package_the_line_to_install_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.emit.tensorrt.find_spec", lambda name: None)
    with pytest.raises(TargetError) as error:
        TensorRTEmitter().emit(mlp(), tmp_path / "m.engine", EmitOptions())
    assert error.value.exit_code == 6
    assert error.value.what == "an engine needs TensorRT for RTX, which is not installed"
    assert error.value.hint == 'install it: pip install "graphopt[tensorrt]" (it needs no GPU)'
    assert list(tmp_path.iterdir()) == []


def test_what_the_builder_says_becomes_an_error() -> None:
    turing = (
        "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] "
        "Cannot compile operation 'Gemm_1' for Turing (SM75): FP32 GEMM is not supported. "
        "In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
    )
    assert str(refusal([turing])) == (
        "sm_75 (Turing) has no kernel for an fp32 Gemm, which 'Gemm_1' needs\n"
        "  convert the model to fp16 first, or leave 75 out of --sm"
    )
    no_gpu = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: too old)"
    shape = "IBuilder::x: Error Code 4: Internal Error (kOPT values for profile 0 violate shape constraints: a.)"
    assert refusal([no_gpu, shape]).what == (
        "TensorRT cannot build this model: kOPT values for profile 0 violate shape constraints: a."
    )
    assert refusal([shape]).hint == "give the shapes that the model takes: --profile name=smallest:usual:largest"
    assert refusal([]).what == "TensorRT cannot build this model: it gives no reason"


needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra [tensorrt] is not installed"
)


@needs_tensorrt
def test_an_engine_is_built_without_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    emitted = TensorRTEmitter().emit(mlp("batch"), path, EmitOptions())
    assert emitted.files == (path,)
    assert emitted.bytes == path.stat().st_size > 10_000
    assert path.read_bytes()[1:4] == b"trt"
    assert emitted.notes[0] == "assumed the profile x=1x16:8x16:32x16"
    assert "built for sm 80, 86, 89, 120 in" in emitted.notes[1]
    assert [f.name for f in tmp_path.iterdir()] == ["m.engine"]


@needs_tensorrt
def test_turing_refuses_fp32_gemm_and_the_old_engine_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(b"old")
    with pytest.raises(TargetError) as error:
        TensorRTEmitter().emit(mlp(), path, EmitOptions(sm=(75,)))
    assert error.value.where == str(path)
    assert error.value.what.startswith("sm_75 (Turing) has no kernel for an fp32 Gemm")
    assert error.value.hint == "convert the model to fp16 first, or leave 75 out of --sm"
    assert path.read_bytes() == b"old"


@needs_tensorrt
def test_an_unknown_capability_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not build for sm 90") as error:
        TensorRTEmitter().emit(mlp(), tmp_path / "m.engine", EmitOptions(sm=(86, 90)))
    assert "80, 86, 89, 120" in (error.value.hint or "")


@needs_tensorrt
def test_an_operator_that_tensorrt_has_not_is_named(tmp_path: Path) -> None:
    model = mlp()
    node = model.ir.graph.node(1)
    node.domain, node.op_type, node.name = "com.example", "Swirl", "swirl_1"
    with pytest.raises(TargetError) as error:
        TensorRTEmitter().emit(model, tmp_path / "m.engine", EmitOptions())
    assert error.value.what == "TensorRT refuses Swirl: it has no such operator"
    assert error.value.where == "node 'swirl_1'"


@needs_tensorrt
def test_an_input_that_holds_a_shape_needs_its_values(tmp_path: Path) -> None:
    model = load(
        '<ir_version: 8, opset_import: ["": 17]> g (float[6, 4] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }'
    )
    path = tmp_path / "m.engine"
    with pytest.raises(TargetError, match="needs the range of the values of the input 's'") as error:
        TensorRTEmitter().emit(model, path, EmitOptions())
    assert error.value.hint == "--profile s=smallest:usual:largest"
    profile = {"s": Range((2, 2), (6, 4), (24, 24))}
    TensorRTEmitter().emit(model, path, EmitOptions(sm=(86,), profile=profile))
    assert path.stat().st_size > 1000


@needs_tensorrt
def test_a_build_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as error:
        TensorRTEmitter().emit(mlp(), tmp_path / "m.engine", EmitOptions(timeout=0.001))
    assert error.value.what == "TensorRT did not finish within 0.001 s"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_an_engine_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.emit.tensorrt.find_spec", lambda name: True)
    with pytest.raises(UsageError, match="its folder does not exist"):
        TensorRTEmitter().emit(mlp(), tmp_path / "missing" / "m.engine", EmitOptions())


RESIDUAL_CNN = Path(__file__).parents[2] / "fixtures" / "models" / "residual_cnn.onnx"


def test_a_file_that_does_not_load_again_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import graphopt
    import graphopt.ir.save as save

    path = tmp_path / "model.onnx"
    graphopt.save(graphopt.load(RESIDUAL_CNN), path)
    before = path.read_bytes()

    def broken(layout: object, out: Replacement) -> None:
        out.write(b"no model")
        out.finish()

    monkeypatch.setattr(save, "_write_message", broken)
    with pytest.raises(graphopt.VerificationError, match="the file does not load again"):
        graphopt.save(graphopt.load(RESIDUAL_CNN), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
