"""Cases in which a simplification was wrong, or made more of a model, until somebody tried to break it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphopt_passes.simplify import Simplify

from tests.rules.helpers import build, declines, fires, rewrite, weight

SIMPLIFY = Simplify()


@pytest.mark.parametrize("to", ["6", "5", "2"])  # int32, int16, uint8
def test_integers_through_a_float_to_integers_that_hold_fewer(to: str) -> None:
    """Of 3e9 as a double there is no int32; as uint32 it would wrap around."""
    kind = {"6": "int32", "5": "int16", "2": "uint8"}[to]
    model = build(f"(uint32[4] x) => ({kind}[4] y)", f"a = Cast<to=11>(x) y = Cast<to={to}>(a)")
    declines(SIMPLIFY, model, "cast_cast", "no defined result")


def test_integers_through_a_float_to_integers_that_hold_them() -> None:
    model = build("(uint8[4] x) => (int64[4] y)", "a = Cast<to=1>(x) y = Cast<to=7>(a)")
    fires(SIMPLIFY, model, "cast_cast", ["Cast"])


def test_the_mean_of_four_axes_is_no_pool() -> None:
    """ONNX Runtime pools over at most three axes."""
    model = build("(float[2,3,2,2,2,2] x) => (float[2,3,1,1,1,1] y)", "y = ReduceMean<axes=[2,3,4,5]>(x)", opset=13)
    declines(SIMPLIFY, model, "mean_of_image", "one to three axes")
    three = build("(float[2,3,2,2,2] x) => (float[2,3,1,1,1] y)", "y = ReduceMean<axes=[2,3,4]>(x)", opset=13)
    assert rewrite(three, SIMPLIFY).ops == ["GlobalAveragePool"]


def test_an_if_between_truth_values_stays() -> None:
    """ONNX Runtime has no Where of booleans."""
    body = "y = If<then_branch = t () => (bool[3] o) { o = Identity(a) }," \
           " else_branch = e () => (bool[3] p) { p = Identity(b) }>(c)"  # fmt: skip
    model = build("(bool c, bool[3] a, bool[3] b) => (bool[3] y)", body)
    declines(SIMPLIFY, model, "if_where", "no kernel of Where")


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_empty_sizes_of_resize_count_as_left_out(mode: str) -> None:
    """A Resize by 1.2 may keep the shape, and moves elements all the same."""
    scales, sizes = np.array([1, 1, 1.2, 1.2], np.float32), np.zeros(0, np.int64)
    body = f'y = Resize<mode="{mode}">(x, , scales, sizes)'
    model = build("(float[1,2,4,4] x) => (float[1,2,4,4] y)", body, opset=13, scales=scales, sizes=sizes)
    assert rewrite(model, SIMPLIFY, "fast").ops == ["Resize"]


def test_a_sequence_of_all_parts_is_joined_to_what_was_split() -> None:
    body = "s = SplitToSequence<axis=0>(x) y = ConcatFromSequence<axis=-2>(s)"
    assert fires(SIMPLIFY, build("(float[4,3] x) => (float[4,3] y)", body), "sequence_known").ops == ["Identity"]


def test_parts_of_a_split_that_are_outputs_stay_where_identities_would_be_more() -> None:
    body = "c = Concat<axis=0>(x, z) a, b = Split<axis=0>(c, s)"
    sizes = np.array([1, 2])
    outputs = "(float[1,4] a, float[2,4] b, float[3,4] c)"
    model = build(f"(float[1,4] x, float[2,4] z) => {outputs}", body, s=sizes)
    declines(SIMPLIFY, model, "split_of_concat", "Identities")
    alone = build("(float[1,4] x, float[2,4] z) => (float[1,4] a, float[2,4] b)", body, s=sizes)
    assert rewrite(alone, SIMPLIFY).ops == ["Identity", "Identity"]


def test_what_underflows_does_not_come_back_factor_by_factor() -> None:
    """1e-8 * 1e-38 is 0, and stays 0 however often it is multiplied by 1000."""
    body = "a0 = Mul(x, tiny) " + " ".join(f"a{i + 1} = Mul(a{i}, k{i})" for i in range(15)) + " y = Neg(a15)"
    constants: dict[str, Any] = {f"k{i}": np.float32(1000) for i in range(15)}
    model = build("(float[4] x) => (float[4] y)", body, tiny=1e-38, **constants)
    after = rewrite(model, SIMPLIFY).after
    assert [n.op_type for n in after.graph.node].count("Mul") > 1


def test_an_einsum_whose_result_lacks_the_axes_of_the_dots_is_left_alone() -> None:
    """It is not well formed, and nobody computes it."""
    model = build("(float[2,3] x) => (float[3] y)", 'y = Einsum<equation="...i->i">(x)')
    declines(SIMPLIFY, model, "einsum_of_one", "does not have the axes")


def test_weights_of_a_flat_layer_may_be_read_twice() -> None:
    """The rows of a linear layer are what they were, with the same weight behind a Reshape and elsewhere."""
    body = "a = Reshape(x, s) m = MatMul(a, w) y = Reshape(m, t) z = MatMul(v, w)"
    shapes = {"s": np.array([6, 4]), "t": np.array([2, 3, 5])}
    model = build("(float[2,3,4] x, float[7,4] v) => (float[2,3,5] y, float[7,5] z)", body, w=weight(4, 5), **shapes)
    fires(SIMPLIFY, model, "reshape_around", ["MatMul", "MatMul"])


CACHED = "(float[1,2,3,8] q, float[1,2,3,8] k, float[1,2,3,8] v, float[1,2,5,8] pk, float[1,2,5,8] pv) => "


@pytest.mark.parametrize("outputs", ["a", "a, keys", "a, keys, values"])
def test_attention_with_a_past_gives_all_of_the_present(outputs: str) -> None:
    """ONNX Runtime fails where there is a past and no present, or only one half of it."""
    shapes = {"a": "float[1,2,3,8] a", "keys": "float[1,2,8,8] keys", "values": "float[1,2,8,8] values"}
    ends = ", ".join(shapes[name] for name in outputs.split(", "))
    body = "a, keys, values, scores = Attention<is_causal=1>(q, k, v, , pk, pv)"
    outcome = fires(SIMPLIFY, build(f"{CACHED}({ends})", body, opset=23), "unread_output", by="ort")
    assert [len(n.output) for n in outcome.after.graph.node] == [3]


def test_attention_without_a_past_and_present_gives_one_output() -> None:
    body = "a, keys, values = Attention(q, k, v)"
    signature = "(float[1,2,3,8] q, float[1,2,3,8] k, float[1,2,3,8] v) => (float[1,2,3,8] a)"
    outcome = fires(SIMPLIFY, build(signature, body, opset=23), "unread_output", by="ort")
    assert [len(n.output) for n in outcome.after.graph.node] == [1]
