"""Types of what If, Loop and Scan give, from the types inside their bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import onnx_ir as oir

from graphopt.ir.dims import Dim
from graphopt.ir.native import Fact, Translator, common

_HOLDS_BODIES = frozenset({oir.AttributeType.GRAPH, oir.AttributeType.GRAPHS})
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def bodies(node: oir.Node) -> list[oir.Graph]:
    """The graphs in a node's attributes."""
    found: list[oir.Graph] = []
    for attr in node.attributes.data.values():
        if attr.type not in _HOLDS_BODIES:
            continue
        if attr.type == oir.AttributeType.GRAPH and not attr.is_ref():
            found.append(attr.value)
        elif attr.type == oir.AttributeType.GRAPHS and not attr.is_ref():
            found.extend(attr.value)
    return found


def inside_out(graph: oir.Graph | oir.Function, enter: Callable[[oir.Graph, oir.Node], Any]) -> Iterator[oir.Node]:
    """All nodes in order, those of a body before the node that holds it; `enter` is told of each body and that node."""
    stack: list[tuple[Iterator[oir.Node], oir.Node | None]] = [(iter(graph), None)]
    while stack:
        nodes, holder = stack[-1]
        for node in nodes:
            inner = bodies(node) if node.attributes else None
            if inner:
                for body in inner:
                    enter(body, node)
                stack.append((chain.from_iterable(inner), node))
                break
            yield node
        else:
            stack.pop()
            if holder is not None:
                yield holder


def outputs(
    node: oir.Node, fact: Callable[[oir.Value], Fact], translator: Translator, taken: bool | None = None
) -> list[Fact]:
    """The types of the outputs of an If, Loop or Scan; Fact() where the bodies leave them open.

    `taken`: the condition of an If, where it is known.
    """
    if node.op_type == "If" and taken is not None:
        attr = node.attributes.get("then_branch" if taken else "else_branch")
        if attr is not None and not attr.is_ref() and len(attr.value.outputs) == len(node.outputs):
            return [fact(v) for v in attr.value.outputs]
    inner = [[fact(v) for v in body.outputs] for body in bodies(node)]
    if not inner:
        return [Fact()] * len(node.outputs)
    if node.op_type == "If":
        complete = len(inner) == 2 and all(len(b) == len(node.outputs) for b in inner)
        return [common([b[i] for b in inner], translator) if complete else Fact() for i in range(len(node.outputs))]
    first = 1 if node.op_type == "Loop" else 0
    states = len(node.inputs) - 2 if first else len(node.inputs) - _scan_inputs(node)
    results = []
    for i, found in enumerate(inner[0][first:]):
        if i < states:
            results.append(found if found.proto is not None else Fact(found.dtype))
        elif found.shape is None or not first:
            results.append(Fact(found.dtype))
        else:
            # Sizes inside a body may be those of one iteration; and without iterations they are unknown.
            sizes = [n if isinstance(n, int) else translator.fresh() for n in found.shape]
            results.append(Fact(found.dtype, (translator.fresh(), *sizes)))
    return results[: len(node.outputs)]


def inputs(
    node: oir.Node, fact: Callable[[oir.Value], Fact], version: int | None
) -> Iterator[tuple[oir.Value, Fact]]:
    """What the operands of a Scan or Loop say of the inputs of its body.

    Of a Loop's states that is the dtype alone, for their shapes may change from one iteration to the next.
    """
    if node.op_type not in ("Loop", "Scan") or version is None or (node.op_type == "Scan" and version < 9):
        return
    (body, *_) = bodies(node) or (None,)
    if body is None:
        return
    lead = 2 if node.op_type == "Loop" else 0
    states = len(node.inputs) - (0 if lead else _scan_inputs(node))
    axes = node.attributes.get("scan_input_axes")
    for i, (outer, inner) in enumerate(zip(node.inputs[lead:], body.inputs[lead:], strict=False), lead):
        if outer is None:
            continue
        found = fact(outer)
        if lead or found.shape is None:
            yield inner, found if found.proto is not None else Fact(found.dtype)
        elif i < states:
            yield inner, found
        else:
            axis = 0 if axes is None or axes.is_ref() else int(axes.value[i - states])
            rank = len(found.shape)
            if -rank <= axis < rank:
                yield inner, Fact(found.dtype, tuple(n for k, n in enumerate(found.shape) if k != axis % rank))


def _scan_inputs(node: oir.Node) -> int:
    attr = node.attributes.get("num_scan_inputs")
    return len(node.inputs) if attr is None or attr.is_ref() else int(attr.value)


def without_local_sizes(fact: Fact, translator: Translator) -> Fact:
    """The type with every symbolic size made unknown, for what leaves the body of a Loop or Scan."""
    if fact.shape is None or not any(isinstance(n, Dim) for n in fact.shape):
        return fact
    return fact._replace(shape=tuple(n if isinstance(n, int) else translator.fresh() for n in fact.shape))
