"""Shape tensors: computed as far as sizes allow, and never further than is true of every size."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as oir
import pytest

from graphopt.ir.dims import Dim
from graphopt.ir.facts import Facts

B, S = Dim.symbol("B"), Dim.symbol("S")


def facts_of(body: str, *, inputs: str = "float[B,S,12,64] x, int64[2] k, int64 m, int32[2] k32", opset: int = 17):
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    model = oir.from_proto(proto)
    facts = Facts(model, proto)
    values = {v.name: v for node in model.graph for v in node.outputs}
    return facts, values


def elements(body: str, name: str = "y", **how):
    facts, values = facts_of(body, **how)
    return facts.symbolic(values[name])


SHAPE = "s = Shape(x) zero = Constant<value_int=0>() one = Constant<value_int=1>() "


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Shape(x)", (B, S, 12, 64)),
        ("y = Shape<start=1,end=-1>(x)", (S, 12)),
        ("y = Size(x)", (768 * B * S,)),
        (SHAPE + "y = Gather(s, one)", (S,)),
        (SHAPE + "a = Gather(s, zero) b = Gather(s, one) y = Mul(a, b)", (B * S,)),
        (SHAPE + "two = Constant<value_ints=[2]>() y = Div(s, two)", (B // 2, S // 2, 6, 32)),
        (SHAPE + "y = ReduceProd<keepdims=0>(s)", (768 * B * S,)),
        (SHAPE + "y = Cast<to=6>(s)", (B, S, 12, 64)),
        (SHAPE + "y = Neg(s)", (-B, -S, -12, -64)),
        (SHAPE + "t = Constant<value_ints=[-1,0,12,-1]>() y = Equal(s, t)", None),
        (SHAPE + "t = Constant<value_ints=[-1]>() e = Equal(s, t) o = Constant<value_ints=[1,1,1,1]>() "
                 "y = Where(e, o, s)", (B, S, 12, 64)),
        (SHAPE + "r = Constant<value_ints=[2,2]>() q = Reshape(s, r) p = Transpose(q) f = Constant<value_ints=[-1]>() "
                 "y = Reshape(p, f)", (B, 12, S, 64)),
        (SHAPE + "y = Max(s, s)", (B, S, 12, 64)),
        ("f = Constant<value_floats=[2.5]>() c = Constant<value_floats=[3.0]>() z = Mul(f, c) h = Floor(z) "
         "y = Cast<to=7>(h)", (7,)),
    ],
)  # fmt: skip
def test_elements(body: str, expected: tuple[int | Dim, ...] | None) -> None:
    assert elements(body) == expected


def test_an_unknown_integer_is_equal_to_itself_alone() -> None:
    facts, values = facts_of("a = Identity(k) b = Identity(k) c = NonZero(x) d = Concat<axis=0>(k, k) y = Add(k, k)")
    a, b = facts.symbolic(values["a"]), facts.symbolic(values["b"])
    assert a is not None and a == b and a[0] != a[1]
    assert facts.symbolic(values["d"]) == (*a, *a)
    assert facts.symbolic(values["y"]) == tuple(2 * x for x in a)


def test_what_may_be_negative_is_not_divided_or_compared() -> None:
    for op in ("Div", "Mod", "Less", "Max"):
        facts, values = facts_of(f"three = Constant<value_int=3>() y = {op}(k, three)")
        found = facts.symbolic(values["y"])
        assert found is None or all(isinstance(e, Dim) and e.is_anonymous for e in found)


def test_int32_arithmetic_of_unknown_integers_may_wrap_around() -> None:
    facts, values = facts_of("a = Add(k32, k32) b = Cast<to=7>(a) y = Sub(b, b)")
    doubled = facts.symbolic(values["a"])
    assert doubled is not None and all(isinstance(e, Dim) and e.is_anonymous for e in doubled)
    assert facts.symbolic(values["y"]) == (0, 0)


def test_integer_division_by_zero_stays_unknown() -> None:
    facts, values = facts_of("a = Constant<value_ints=[1]>() b = Constant<value_ints=[0]>() y = Div(a, b)")
    found = facts.symbolic(values["y"])
    assert found is not None and isinstance(found[0], Dim) and found[0].is_anonymous


def test_numbers_beyond_int64_stay_unknown() -> None:
    facts, values = facts_of("s = Shape(x) h = Constant<value_ints=[4611686018427387904]>() y = Mul(s, h)")
    found = facts.symbolic(values["y"])
    assert found is not None and all(isinstance(e, Dim) and e.is_anonymous for e in found)


def test_a_long_chain_is_no_recursion() -> None:
    steps = " ".join(f"v{i + 1} = Add(v{i}, one)" for i in range(3000))
    body = f"one = Constant<value_ints=[1]>() s = Shape<start=0,end=1>(x) v0 = Identity(s) {steps} y = Identity(v3000)"
    assert elements(body) == (B + 3000,)
