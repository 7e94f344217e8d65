"""Operators with bodies, which may read what stands outside; and local functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.fuzz.builder import Builder, Reject
from tests.fuzz.values import BOOL, F32, I64, NUMBERS, Val

Step = Callable[[Builder], None]

_DEEPEST = 3


def _fill(b: Builder, step: Step, most: int = 4) -> None:
    for _ in range(b.rng.randint(1, most)):
        try:
            step(b)
        except (Reject, ValueError, IndexError, TypeError):
            continue


def _info(name: str, value: Val, typed: bool) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, value.dtype, value.shape if typed else None)


def _given(b: Builder, made: set[str], value: Val) -> Val:
    """The value, or an Identity of it if the body does not make it."""
    return value if value.name in made and b.rng.random() < 0.6 else b.node("Identity", [value])


def _condition(b: Builder) -> Val:
    rng = b.rng
    kind = rng.choice(("input", "constant", "computed", "computed"))
    if kind == "constant" or (kind == "input" and b.inside):
        return b.const(np.array(rng.random() < 0.5))
    if kind == "input":
        return b.input((), BOOL)
    x = b.pick(lambda v: v.size == 1, dtypes=(F32, I64))
    return b.node("Greater", [b.node("Reshape", [x, b.ints()]), b.const(0, x.dtype)])


def branch(b: Builder, step: Step) -> None:
    """If, with what one branch or both read from outside, and outputs of shapes that may differ."""
    if len(b.scopes) > _DEEPEST or b.opset < 11:
        raise Reject
    rng = b.rng
    x = b.pick(lambda v: v.size < 200, dtypes=(*NUMBERS, BOOL))
    condition = _condition(b)
    count = rng.choice((1, 1, 2))
    seed, equal = rng.getrandbits(32), rng.random() < 0.2
    graphs, found = [], []
    for which in ("then", "else"):
        with b.body() as nodes:
            if equal:
                rng.seed(seed)  # both branches are alike
            _fill(b, step)
            made = {name for node in nodes for name in node.output}
            mine = [v for v in b.scopes[-1] if v.dtype == x.dtype and v.shape is not None and v.name in made]
            outputs: list[Val] = []
            for _ in range(count):
                output = _given(b, made - {o.name for o in outputs}, rng.choice(mine) if mine and rng.random() < 0.85 else x)
                outputs.append(output)
            typed = rng.random() < 0.7
            graphs.append(helper.make_graph(list(nodes), which, [], [_info(o.name, o, typed) for o in outputs]))
            found.append(outputs)
    names = [b.name() for _ in range(count)]
    node = helper.make_node("If", [condition.name], names, then_branch=graphs[0], else_branch=graphs[1])
    results = [Val(n, p.dtype, p.shape if p.shape == q.shape else None) for n, p, q in zip(names, *found, strict=True)]
    b.raw(node, results)


def loop(b: Builder, step: Step) -> None:
    if len(b.scopes) > _DEEPEST or b.opset < 11:
        raise Reject
    rng = b.rng
    x = b.pick(lambda v: 0 <= v.size < 100, dtypes=NUMBERS)
    small = [v for v in b.values() if 0 <= v.size < 5]
    constant = rng.random() < 0.6 or not small
    trips = b.const(rng.choice((0, 1, 2, 3)), I64) if constant else b.node("Size", [rng.choice(small)])
    going = rng.choice((None, None, b.const(np.array(True)), b.const(np.array(rng.random() < 0.7))))
    with b.body() as nodes:
        trip, on, state = Val(b.name("i"), I64, ()), Val(b.name("on"), BOOL, ()), Val(b.name("s"), x.dtype, x.shape)
        b.scopes[-1].extend((trip, on, state))
        _fill(b, step)
        made = {name for node in nodes for name in node.output}
        fits = [v for v in b.scopes[-1] if v.dtype == x.dtype and v.shape == x.shape]
        carried = _given(b, made, rng.choice(fits))
        kind = rng.random()
        on_out = b.node("Identity", [on]) if kind < 0.6 else _const_node(b, kind < 0.9)
        stacked = [v for v in b.scopes[-1][3:] if v.name in made - {carried.name, on_out.name} and v.shape is not None]
        outputs = [on_out, carried, *([rng.choice(stacked)] if stacked and rng.random() < 0.6 else [])]
        typed = rng.random() < 0.6
        body = helper.make_graph(
            list(nodes), "body", [_info(trip.name, trip, True), _info(on.name, on, True), _info(state.name, state, typed)],
            [_info(o.name, o, typed or i == 0) for i, o in enumerate(outputs)],
        )  # fmt: skip
    names = [b.name() for _ in outputs[1:]]
    node = helper.make_node("Loop", [trips.name, going.name if going else "", x.name], names, body=body)
    b.raw(node, [Val(names[0], x.dtype, x.shape), *(Val(n, o.dtype, None) for n, o in zip(names[1:], outputs[2:], strict=True))])


def _const_node(b: Builder, content: bool) -> Val:
    name = b.name("c")
    tensor = numpy_helper.from_array(np.array(content), name)
    b.raw(helper.make_node("Constant", [], [name], value=tensor), [])
    return Val(name, BOOL, ())


def scan(b: Builder, step: Step) -> None:
    if len(b.scopes) > _DEEPEST or b.opset < 11:
        raise Reject
    rng = b.rng
    rows = b.pick(lambda v: v.dims[0] > 0 and v.size < 200, least=1, dtypes=NUMBERS)
    start = b.const(b.numbers(rows.dims[1:], rows.dtype), plain=True)
    with b.body() as nodes:
        state, row = Val(b.name("s"), rows.dtype, rows.dims[1:]), Val(b.name("r"), rows.dtype, rows.dims[1:])
        b.scopes[-1].extend((state, row))
        b.node("Add", [state, row])
        _fill(b, step, 3)
        made = {name for node in nodes for name in node.output}
        fits = [v for v in b.scopes[-1] if v.dtype == rows.dtype and v.shape == rows.dims[1:]]
        carried = _given(b, made, rng.choice(fits))
        given = b.node("Identity", [rng.choice(fits)])
        body = helper.make_graph(
            list(nodes), "body", [_info(v.name, v, True) for v in (state, row)],
            [_info(v.name, v, True) for v in (carried, given)],
        )  # fmt: skip
    names = [b.name(), b.name()]
    reverse = {"scan_input_directions": [1]} if rng.random() < 0.3 else {}
    node = helper.make_node("Scan", [start.name, rows.name], names, body=body, num_scan_inputs=1, **reverse)
    b.raw(node, [Val(names[0], rows.dtype, rows.dims[1:]), Val(names[1], rows.dtype, rows.shape)])


def function(b: Builder, step: Step) -> None:
    """A local function with attributes of its own, called once or twice."""
    if b.opset < 13 or b.inside:
        raise Reject
    rng, name = b.rng, b.name("Fn")
    x = b.pick(least=1, dtypes=(F32,))
    nodes: list[onnx.NodeProto] = []
    wanted: set[str] = set()
    current = "X"

    def refer(node: onnx.NodeProto, attribute: str, kind: int, of: str = "") -> None:
        node.attribute.append(onnx.AttributeProto(name=attribute, ref_attr_name=of or attribute, type=kind))
        wanted.add(of or attribute)

    for i in range(rng.randint(1, 5)):
        out = f"t{i}"
        kind = rng.randrange(8)
        if kind == 0:
            nodes.append(helper.make_node(rng.choice(("LeakyRelu", "Elu")), [current], [out]))
            refer(nodes[-1], "alpha", onnx.AttributeProto.FLOAT)
        elif kind == 1:
            number = numpy_helper.from_array(np.array(rng.choice((0, 1, 2, -0.0)), np.float32))
            nodes.append(helper.make_node("Constant", [], [f"{out}c"], value=number))
            nodes.append(helper.make_node(rng.choice(("Add", "Mul", "Sub")), [current, f"{out}c"], [out]))
        elif kind == 2:
            nodes.append(helper.make_node("Transpose", [current], [f"{out}p"]))
            nodes.append(helper.make_node("Transpose", [f"{out}p"], [out]))
        elif kind == 3:
            nodes.append(helper.make_node(rng.choice(("Softmax", "LogSoftmax")), [current], [out]))
            refer(nodes[-1], "axis", onnx.AttributeProto.INT)
        elif kind == 4:
            nodes.append(helper.make_node("Neg", [current], [f"{out}n"]))
            nodes.append(helper.make_node("Neg", [f"{out}n"], [out]))
        elif kind == 5:
            nodes.append(helper.make_node("Constant", [], [f"{out}c"]))
            refer(nodes[-1], "value_float", onnx.AttributeProto.FLOAT, of="alpha")
            nodes.append(helper.make_node(rng.choice(("Add", "Mul")), [current, f"{out}c"], [out]))
        elif kind == 6:  # reduced along an axis, and back by broadcasting
            nodes.append(helper.make_node("ArgMax", [current], [f"{out}a"], keepdims=1))
            refer(nodes[-1], "axis", onnx.AttributeProto.INT)
            nodes.append(helper.make_node("CastLike" if b.opset >= 15 else "Cast", [f"{out}a", *([current] if b.opset >= 15 else [])], [f"{out}f"], **({} if b.opset >= 15 else {"to": F32})))
            nodes.append(helper.make_node("Add", [current, f"{out}f"], [out]))
        else:
            nodes.append(helper.make_node("Identity", [current], [out]))
        current = out
    imports = [helper.make_opsetid("", b.opset)]
    b.functions.append(helper.make_function("local", name, ["X"], [current], nodes, imports, attributes=sorted(wanted)))
    b.imports["local"] = 1
    for _ in range(rng.choice((1, 2))):
        given = {"alpha": rng.choice((0.5, 1.0, 0.0)), "axis": rng.choice((0, -1))}
        result = b.name()
        node = helper.make_node(name, [x.name], [result], domain="local", **{a: given[a] for a in wanted})
        b.raw(node, [Val(result, x.dtype, x.shape)])


GENERATORS = {branch: 3, loop: 2, scan: 1, function: 2}
