"""Other people's optimizers as passes: onnxsim, ONNX Runtime's, and tools that misbehave."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import Context, Pass, TargetError, Tool, ToolError, UsageError, VerificationError
from graphopt.engine.spec import parse
from graphopt.ir.tensors import FileTensor
from tests.unit.engine import model, ops
from tests.unit.tools import tool

F = np.float32
CHAIN = "g (float[N, 4] x) => (float[N, 4] y) { a = Identity(x) b = Neg(a) y = Exp(b) }"
BATCH_NORM = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
    a = Conv(x, w) b = BatchNormalization(a, s, o, m, v) y = Relu(b) }"""


def conv() -> graphopt.Model:
    rng = np.random.default_rng(0)
    vectors = {name: rng.random(4).astype(F) + 0.5 for name in "somv"}
    return model(BATCH_NORM, w=rng.standard_normal((4, 3, 3, 3)).astype(F), **vectors)


@dataclass(frozen=True)
class Run(Pass):
    """Runs a tool."""

    name: ClassVar[str] = "run"
    settles: ClassVar[bool] = False

    tool: Tool
    options: tuple[tuple[str, Any], ...] = ()
    timeout: float = 60.0

    def run(self, ctx: Context) -> None:
        ctx.run_tool(self.tool, timeout=self.timeout, **dict(self.options))


class TestTools:
    def test_what_a_tool_changes_is_one_rewrite(self) -> None:
        result = graphopt.optimize(model(CHAIN), [Run(tool("rename"), (("op", "Exp"), ("to", "Exp")))])
        assert result.journal.entries == []
        assert result.report.passes[0].notes == [f"by onnx {onnx.__version__}"]
        result = graphopt.optimize(model(CHAIN), [Run(tool("rename"), (("op", "Neg"), ("to", "Abs")))], verify=False)
        (entry,) = result.journal.entries
        assert (entry.ordinal, entry.rule, entry.at, entry.removed, entry.added) == (1, "rename", "g", ("Neg",), ("Abs",))

    def test_verification_catches_a_tool_that_is_wrong(self) -> None:
        with pytest.raises(VerificationError, match="does not compute what the original computes"):
            graphopt.optimize(model(CHAIN), [Run(tool("rename"), (("op", "Neg"), ("to", "Abs")))])

    @pytest.mark.parametrize(
        ("function", "what"),
        [
            ("fail", "failed: ValueError: no idea what to do"),
            ("crash", "crashed: its process was killed by SIGSEGV"),
            ("garbage", "wrote a model that cannot be read: is not an ONNX model"),
            ("nothing", "wrote no model"),
        ],
    )
    def test_a_tool_that_fails_is_named(self, function: str, what: str) -> None:
        with pytest.raises(ToolError) as caught:
            graphopt.optimize(model(CHAIN), [Run(tool(function))], verify=False)
        assert caught.value.what.startswith(f"onnx {onnx.__version__} {what}")
        assert caught.value.where == f"pass {function!r}"
        assert caught.value.exit_code == 1

    def test_a_tool_that_hangs_is_stopped(self) -> None:
        with pytest.raises(ToolError) as caught:
            graphopt.optimize(model(CHAIN), [Run(tool("hang"), timeout=0.2)], verify=False)
        assert caught.value.what == f"onnx {onnx.__version__} was stopped after 0.2 s without a result"
        assert caught.value.hint == "allow more: timeout=, or leave the pass out"

    def test_going_on_without_a_tool_that_fails(self) -> None:
        passes = [Run(tool("fail")), "cleanup"]
        result = graphopt.optimize(model(CHAIN), passes, keep_going=True, verify=False)
        assert ops(result.model) == ["Neg", "Exp"]
        assert result.report.passes[0].notes[-1] == (
            f"onnx {onnx.__version__} failed: ValueError: no idea what to do; the model is as it was before"
        )

    def test_a_fixed_size_is_declined(self) -> None:
        result = graphopt.optimize(model(CHAIN), [Run(tool("fix"))])
        assert result.report.passes[0].declined == {
            "fix": {"the graph input 'x' would have the shape [1, 4] instead of [N, 4]": 1}
        }
        assert ops(result.model) == ["Identity", "Neg", "Exp"]

    def test_stop_after_comes_before_the_tool(self) -> None:
        result = graphopt.optimize(model(CHAIN), [Run(tool("crash"))], stop_after=0)
        assert ops(result.model) == ["Identity", "Neg", "Exp"]
        assert result.journal.stopped

    def test_what_is_ignored_is_not_run(self) -> None:
        result = graphopt.optimize(conv(), "ort", ignore=["ort.*"])
        assert ops(result.model) == ["Conv", "BatchNormalization", "Relu"]
        assert result.report.passes[0].declined == {"ort.basic": {"it is ignored": 1}}

    def test_what_is_protected_stays(self) -> None:
        result = graphopt.optimize(conv(), "ort", protect=["op:BatchNormalization"])
        assert ops(result.model) == ["Conv", "BatchNormalization", "Relu"]
        assert result.report.passes[0].declined == {"ort.basic": {"'op:BatchNormalization' is protected": 1}}

    def test_a_package_that_is_missing(self) -> None:
        with pytest.raises(UsageError) as caught:
            graphopt.optimize(model(CHAIN), [Run(tool("copy", "no_such_package"))])
        assert str(caught.value) == (
            "the pass 'copy' needs the package 'no_such_package', which is not installed\n  pip install 'onnx'"
        )

    def test_external_data_and_weights_that_stay(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        weights = {name: rng.random((64, 64)).astype(F) for name in "wv"}
        made = model("g (float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) b = Neg(a) y = MatMul(b, v) }", **weights)
        graphopt.save(made, tmp_path / "m.onnx", external=True)
        options = (("op", "Neg"), ("to", "Abs"))
        result = graphopt.optimize(tmp_path / "m.onnx", [Run(tool("rename"), options)], verify=False)
        for name, value in result.model.ir.graph.initializers.items():
            assert isinstance(value.const_value, FileTensor)
            assert value.const_value.file.path.parent == tmp_path, name
        result.save(tmp_path / "out.onnx")
        saved = onnx.load(tmp_path / "out.onnx")
        for tensor in saved.graph.initializer:
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), weights[tensor.name])


class TestMissing:
    @pytest.mark.parametrize("name", ["onnxsim", "onnxscript"])
    def test_the_extra_is_named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == name else real(n, *a))
        with pytest.raises(UsageError) as caught:
            parse(name)
        assert str(caught.value) == (
            f"the pass {name!r} needs the package {name!r}, which is not installed\n  pip install 'graphopt[{name}]'"
        )


@pytest.mark.slow  # importing it alone may take seconds
@pytest.mark.skipif(importlib.util.find_spec("onnxsim") is None, reason="onnxsim is not installed")
class TestOnnxsim:
    def test_folds_a_batch_normalization(self) -> None:
        result = graphopt.optimize(conv(), "onnxsim")
        assert ops(result.model) == ["Conv", "Relu"]
        (entry,) = result.journal.entries
        assert (entry.rule, entry.at) == ("onnxsim", "g")
        assert result.verification is not None
        assert result.verification.status == "ok"
        again = graphopt.optimize(result.model, "onnxsim")
        assert again.journal.entries == []

    def test_options(self) -> None:
        for options in ("skip=fuse_bn_into_conv", "optimize=false"):
            assert ops(graphopt.optimize(conv(), f"onnxsim{{{options}}}").model) == ["Conv", "BatchNormalization", "Relu"]

    def test_with_other_passes(self) -> None:
        result = graphopt.optimize(model(CHAIN), "onnxsim,cleanup")
        assert ops(result.model) == ["Neg", "Exp"]

    def test_initializers_that_a_caller_may_override_are_kept(self) -> None:
        text = "g (float[N, 4] x, float[4] w) => (float[N, 4] y) { a = Identity(x) y = Mul(a, w) }"
        result = graphopt.optimize(model(text, w=np.ones(4, F)), "onnxsim")
        assert result.report.passes[0].declined == {"onnxsim": {"the graph input 'w' would be gone": 1}}
        assert ops(result.model) == ["Identity", "Mul"]


class TestOrt:
    def test_basic_keeps_to_standard_operators(self) -> None:
        result = graphopt.optimize(conv(), "ort")
        assert ops(result.model) == ["Conv", "Relu"]
        assert [e.rule for e in result.journal.entries] == ["ort.basic"]
        assert dict(result.model.ir.opset_imports) == {"": 20}
        assert graphopt.optimize(result.model, "ort").journal.entries == []

    def test_new_weights_outlive_the_tool(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        vectors = {name: rng.random(64).astype(F) + 0.5 for name in "somv"}
        text = BATCH_NORM.replace("4, 6, 6", "64, 6, 6")
        m = model(text, w=rng.standard_normal((64, 3, 3, 3)).astype(F), **vectors)
        result = graphopt.optimize(m, "ort")
        result.save(tmp_path / "out.onnx")
        saved = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
        folded = saved[str(next(iter(result.model.ir.graph)).inputs[1].name)]
        np.testing.assert_allclose(
            folded, m.ir.graph.initializers["w"].const_value.numpy()
            * (vectors["s"] / np.sqrt(vectors["v"] + 1e-5))[:, None, None, None], rtol=1e-5,
        )  # fmt: skip

    def test_extended_fuses(self) -> None:
        result = graphopt.optimize(conv(), "ort{level=extended}", target="ort-cpu")
        assert [(n.domain, n.op) for n in result.model.main.nodes] == [("com.microsoft", "FusedConv")]
        assert dict(result.model.ir.opset_imports) == {"": 20, "com.microsoft": 1}
        assert result.verification is not None
        assert result.verification.status == "ok"

    def test_optimizers_can_be_left_out(self) -> None:
        result = graphopt.optimize(conv(), "ort{disable=ConvBNFusion}")
        assert ops(result.model) == ["Conv", "BatchNormalization", "Relu"]

    @pytest.mark.parametrize(
        ("level", "target", "what"),
        [
            ("extended", "onnx", "ort{level=extended} uses operators of com.microsoft, which the target does not take"),
            ("layout", "tensorrt", "ort{level=layout} uses operators of com.microsoft, which the target does not take"),
            ("all", "ort-cuda", "ort{level=all} uses layouts of this machine's processor, which the target does not take"),
        ],
    )
    def test_targets_that_do_not_take_the_level(self, level: str, target: str, what: str) -> None:
        with pytest.raises(TargetError) as caught:
            graphopt.optimize(conv(), f"ort{{level={level}}}", target=target)
        assert caught.value.what == what
        assert caught.value.where == f"target {target!r}"

    def test_layout_runs_and_says_for_which_machine(self) -> None:
        result = graphopt.optimize(conv(), "ort{level=layout}", target="ort-cpu")
        assert result.verification is not None
        assert result.verification.status == "ok"
        blocked = any(n.domain == "com.microsoft.nchwc" for n in result.model.main.nodes)
        assert any("this machine's processor" in note for note in result.report.passes[0].notes) == blocked


def test_no_preset_has_them() -> None:
    used = {item.name for level in ("O0", "O1", "O2", "O3") for item in parse(level)}
    assert not used & {"onnxsim", "ort", "onnxscript"}
