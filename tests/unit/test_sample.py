"""Random samples of rules: valid, varied, reproducible, and such that every built-in rule fires on them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, checker

import graphopt
from graphopt import ANY, Attr, Const, Domain, Tensor, approx, op
from graphopt.check.sample import Rejected, SampleOptions, draw, instantiate
from graphopt.rules.language import many
from tests.unit.engine import drive
from tests.unit.sampling import BUILTIN, PLAIN, attrs, constants, of, pattern, samples, shape_of, share

# What decides is the range of a value, which random patterns hardly ever have; golden tests show these rules.
_BY_RANGE = {"simplify.min_noop", "simplify.max_noop", "simplify.clip_noop", "simplify.relu_noop"}


@pytest.mark.parametrize("name", [name for name in BUILTIN if name not in _BY_RANGE])
def test_each_built_in_rule_fires_on_some_samples(name: str) -> None:
    found, rng = BUILTIN[name], Random(7)
    fired = drawn = 0
    while fired < 2 and drawn < 150:
        drawn += 1
        with contextlib.suppress(Rejected):
            fired += drive(graphopt.load(draw(found, rng).model), found)[0] > 0
    assert fired == 2, f"fired on {fired} of {drawn}"


def test_samples_are_accepted_by_the_checker_and_run() -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    ran = 0
    for name in ("fuse.conv_bn", "fuse.gelu_erf", "simplify.slice_slice", "simplify.reduce_squeeze"):
        for sample in samples(BUILTIN[name], 15, SampleOptions(dtype=TensorProto.FLOAT)):
            checker.check_model(sample.model, full_check=True)
            assert {v.name for v in sample.model.graph.input} >= set(sample.feeds)
            try:
                session = ort.InferenceSession(sample.model.SerializeToString(), options)
            except Exception as error:
                assert "NOT_IMPLEMENTED" in str(error) or "Cast" in str(error), error
                continue
            session.run(None, dict(sample.feeds))
            ran += 1
    assert ran > 45


# -- the same seed, the same sample ---------------------------------------------------------------

_DIGEST = """
import hashlib
from random import Random
from graphopt.check.sample import draw
from graphopt_passes.fuse.attention import attention_heads
from graphopt_passes.fuse.conv import conv_scale
made, rng = hashlib.sha256(), Random(3)
for found in (attention_heads, conv_scale):
    for _ in range(5):
        sample = draw(found, rng)
        made.update(sample.model.SerializeToString(deterministic=True))
        made.update(b"".join(k.encode() + v.tobytes() for k, v in sample.feeds.items()))
        made.update(repr(sample.traits).encode())
print(made.hexdigest())
"""


def test_samples_do_not_depend_on_the_hash_seed() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_sample_is_made_again_from_its_seed() -> None:
    for sample in samples(BUILTIN["fuse.gemm_shift"], 5):
        again = instantiate(BUILTIN["fuse.gemm_shift"], sample.seed)
        assert again.model == sample.model and again.traits == sample.traits
        assert all(np.array_equal(again.feeds[k], v, equal_nan=v.dtype.kind == "f") for k, v in sample.feeds.items())


# -- structure ------------------------------------------------------------------------------------


def test_all_branches_orders_and_operators_occur() -> None:
    either = pattern(lambda x, c: op.any("Relu", "Neg")(x) + c | x * c)
    found = samples(either, 60)
    assert {s.traits["branch"] for s in found} == {"1 of 2", "2 of 2"}
    assert len({s.traits["operators"] for s in found}) == 3
    assert {s.traits.get("order") for s in found} == {None, "swapped: Add", "swapped: Mul"}


def test_an_alternative_is_chosen_that_the_opset_has() -> None:
    both = pattern(lambda x: op.Relu(op.ReduceMean(x, [0])) | op.Relu(op.ReduceMean(x, axes=[0])))
    for sample in samples(both, 30):
        (node,) = of(sample, "ReduceMean")
        assert (len(node.input) == 2) == (int(sample.traits["opset"]) >= 18)


def _conv(x: Tensor, w: Const, b: Const | None) -> Tensor:
    return op.Conv(x, w, b, ...)


def test_optional_operands_are_there_or_left_out() -> None:
    found = samples(pattern(_conv), 30)
    assert {len(of(s, "Conv")[0].input) for s in found} == {2, 3}
    assert all((len(of(s, "Conv")[0].input) == 2) == (s.traits.get("left out") == "b") for s in found)


def _joined(xs: Tensor, s: Const, axis: Attr[int]) -> Tensor:
    return op.Concat(*many(xs, s, each=lambda x, s: op.Relu(x) * s), axis=axis)


def test_many_stands_for_one_to_four_operands() -> None:
    found = samples(pattern(_joined), 40)
    assert {len(of(s, "Concat")[0].input) for s in found} == {1, 2, 3, 4}
    assert all(len(of(s, "Relu")) == len(of(s, "Concat")[0].input) for s in found)
    assert share(pattern(_joined)) > 0.7


def _parts(x: Tensor, sizes: Const) -> tuple[Tensor, ...]:
    a, b, c = op.Split(x, sizes, axis=0, nout=3)
    return op.Relu(a), op.Neg(b), c


def test_all_outputs_of_a_pattern_are_made() -> None:
    assert share(pattern(_parts)) > 0.7
    for sample in samples(pattern(_parts), 10, PLAIN):
        made = {n.output[0] for operator in ("Relu", "Neg") for n in of(sample, operator)}
        assert {v.name for v in sample.model.graph.output} == made | {of(sample, "Split")[0].output[2]}


def test_operators_that_onnx_does_not_define() -> None:
    ms = Domain("com.microsoft")
    found = pattern(lambda x, b: op.Relu(ms.FastGelu(x, b, ...)))
    assert share(found) > 0.7
    assert {d.domain for d in samples(found, 1)[0].model.opset_import} == {"", "com.microsoft"}


# -- numbers, attributes --------------------------------------------------------------------------


def test_a_number_has_all_forms_and_sometimes_another_value() -> None:
    half = pattern(lambda x: op.Relu(x) * 0.5)
    found = samples(half, 120)
    arrays = [a for s in found for n, a in constants(s).items() if n.startswith("number")]
    assert {0, 1, 2} <= {a.ndim for a in arrays}
    assert any(a.size > 1 for a in arrays), "broadcast in full"
    strange = [a for a in arrays if a.size and not np.all(a.astype(np.float64) == 0.5)]
    assert 0 < len(strange) < 20
    assert share(half, 120) > 0.6


def test_approximate_numbers_stay_within_the_tolerance() -> None:
    near = pattern(lambda x: x * approx(0.7, rtol=1e-2))
    found = [a for s in samples(near, 20, PLAIN) for a in constants(s).values()]
    assert len({float(a.ravel()[0]) for a in found}) > 5
    assert all(np.all(np.abs(a.astype(np.float64) - 0.7) < 0.0071) for a in found)


def _transposed(x: Tensor, perm: Attr[list[int]]) -> Tensor:
    return op.Relu(op.Transpose(x, perm=perm))


def test_captured_attributes_have_declared_and_other_values() -> None:
    declared = pattern(_transposed, shapes={"x": "A B C D"}, attrs={"perm": [0, 2, 1, 3]})
    drawn = Counter(str(attrs(of(s, "Transpose")[0]).get("perm")) for s in samples(declared, 60))
    assert drawn["[0, 2, 1, 3]"] > 25
    assert len(drawn) > 5


def test_attributes_that_the_pattern_opens_vary() -> None:
    found = [attrs(of(s, "Conv")[0]) for s in samples(pattern(_conv), 80, seed=2)]
    for name in ("strides", "dilations", "pads", "group", "auto_pad", "kernel_shape"):
        assert 2 < sum(name in a for a in found) < 70, name


def test_attributes_that_the_pattern_does_not_mention_are_seldom_there() -> None:
    found = [attrs(of(s, "Gemm")[0]) for s in samples(pattern(lambda x, w: op.Gemm(x, w, transB=1)), 120)]
    odd = [a for a in found if a.get("alpha", 1.0) != 1.0 or a.get("transA", 0)]
    assert all(a["transB"] == 1 for a in found)
    assert 0 < len(odd) < 20
    assert any(a.get("transA") == 0 for a in found), "the default, written out"


def _any_epsilon(x: Tensor, scale: Const) -> Tensor:
    return op.LayerNormalization(x, scale, epsilon=ANY)


def test_any_value_of_an_attribute() -> None:
    found = {attrs(of(s, "LayerNormalization")[0]).get("epsilon") for s in samples(pattern(_any_epsilon), 20)}
    assert len(found) >= 2


# -- shapes and dtypes ----------------------------------------------------------------------------


def _hinted(x: Tensor, w: Const, scale: Const) -> Tensor:
    return op.Conv(x, w) * scale


def test_hints_are_followed_mostly() -> None:
    hinted = pattern(_hinted, shapes={"x": "N C H W", "w": "K C 3 3", "scale": "+K 1 1"})
    for sample in samples(hinted, 15, PLAIN):
        held = constants(sample)
        (n, c, h, w) = shape_of(sample, "x")
        assert held["w"].shape[1:] == (c, 3, 3) and len({n, c, h, w}) == 4
        assert held["scale"].shape == (held["w"].shape[0], 1, 1) and (held["scale"] > 0).all()
    shapes = {constants(s)["scale"].shape for s in samples(hinted, 60)}
    assert any(len(shape) != 3 for shape in shapes), "not always"


def test_a_hint_may_name_a_dtype() -> None:
    hinted = pattern(lambda x, y: x + y, shapes={"x": "i8: N C", "y": "i8: ..."})
    drawn = Counter(s.traits["dtypes"] for s in samples(hinted, 60))
    assert drawn["int8"] > 40 and len(drawn) > 1


def test_dtypes_are_unified_over_the_pattern() -> None:
    found = samples(pattern(lambda c, x, y: op.Where(op.Not(c), op.Sqrt(x), y)), 60)
    for sample in found:
        assert sample.traits["dtypes"].split()[0] in ("bfloat16", "bool")
    drawn = Counter(dtype for s in found for dtype in s.traits["dtypes"].split())
    assert drawn["bool"] == 60 and drawn["float"] > 25 and {"float16", "double", "bfloat16"} <= set(drawn)


def test_shapes_vary_in_rank_size_and_broadcasting() -> None:
    found = samples(pattern(lambda x, y: x - y), 150)
    shapes = [v.shape for s in found for v in [*s.feeds.values(), *constants(s).values()]]
    assert {len(shape) for shape in shapes} >= {0, 1, 2, 3, 4, 5}
    assert any(0 in shape for shape in shapes) and any(1 in shape for shape in shapes)
    unequal = [s for s in found if len({v.shape for v in s.feeds.values()}) > 1]
    assert len(unequal) > 30


def test_sizes_are_symbolic_in_some_samples() -> None:
    found = samples(pattern(lambda x, y: op.Concat(x, y, axis=0), shapes={"x": "N C", "y": "M C"}), 60)
    symbolic = [s for s in found if "symbolic" in s.traits["axes"]]
    assert 5 < len(symbolic) < 35
    assert any("C" in shape_of(s, v.name) for s in symbolic for v in s.model.graph.input), "one name for equal sizes"


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: op.Squeeze(x, axes=[2]), "Squeeze"),
        (lambda x: op.Softmax(x, axis=3), "Softmax"),
        (lambda x: op.Gather(x, 1, axis=1), "Gather"),
        (lambda x, y: op.Einsum(x, y, equation="bij,jk->bik"), "Einsum"),
        (lambda x, i, u: op.ScatterElements(x, i, u, ...), "ScatterElements"),
        (lambda x, w, r: op.GRU(x, w, r, ...), "GRU"),
        (lambda x, k: op.TopK(x, k, ..., nout=2)[0], "TopK"),
        (lambda x: op.CumSum(x, 0), "CumSum"),
        (lambda x: op.Relu(op.PRelu(x, op.Abs(x))), "PRelu"),
        (lambda x, y: op.Mod(x, y), "Mod"),
        (lambda x, s, z: op.DequantizeLinear(op.QuantizeLinear(x, s, z, ...), s, z, ...), "QuantizeLinear"),
        (lambda x, w, xz: op.ConvInteger(x, w, xz, ...), "ConvInteger"),
        (lambda x: op.NonZero(x), "NonZero"),
        (lambda x: op.DepthToSpace(x, ...), "DepthToSpace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operators_with_demands_on_their_operands(function: Any, operator: str) -> None:
    found = pattern(function)
    assert all(of(s, operator) for s in samples(found, 5))
    assert share(found, 20) >= 0.5


# -- contents -------------------------------------------------------------------------------------


def test_special_values_in_some_samples_only() -> None:
    found = samples(pattern(lambda x: op.Relu(x), shapes={"x": "f32: N C"}), 60)
    special = [s for s in found if any(v.dtype.kind == "f" and not np.isfinite(v).all() for v in s.feeds.values())]
    assert 3 < len(special) < 30
    assert all(s.traits["special values"] == "some" for s in special)
    assert {True, False} == {s.traits["special values"] == "some" for s in found}


def test_integers_are_never_divided_by_zero() -> None:
    found = samples(pattern(lambda x, y: op.Div(x, y), shapes={"x": "i32: N C"}), 60)
    integers = 0
    for sample in found:
        values = constants(sample) | dict(sample.feeds)
        for name, array in values.items():
            if name.startswith("y") and array.dtype.kind in "iu" and not name.endswith("_shape"):
                assert ((array != 0).all() and (array != -1).all()) or array.dtype.kind == "u"
                integers += 1
    assert integers > 30
    computed = samples(pattern(lambda x, y: op.Div(x, y + 1)), 40)
    assert not any("int" in s.traits["dtypes"] for s in computed), "what is computed may be 0"
