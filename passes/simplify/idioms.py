"""Sequences of operators of which a runtime makes one by itself, if nobody has simplified a part of them away.

ONNX Runtime looks for them as exporters write them: a normalization ends with a product and a sum, even where the one
is by 1 and the other with 0; the mask of attention gets its two axes one after the other. It is worth more to leave
these as they are than to spare an operator. A normalization is an operator from opset 17 on, and Gelu, whose last
factor of a half may not go into the weights behind it, from opset 20 on; from opset 13 on ONNX Runtime does not look
for this attention any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from graphopt import Context, Graph, Node, Value

_NORM_OPSET = 17
_GELU_OPSET = 20
_ATTENTION_OPSET = 13
_REASON = "ONNX Runtime fuses the whole that it is part of"


def keep_idioms(ctx: Context, *names: str) -> None:
    """Let this pass leave the idioms of the target's runtime as they are, or only those of these names."""
    wanted = ctx.target.idioms & (set(names) or _IDIOMS.keys())
    for graph in list(ctx.model.graphs()) if wanted else ():
        for name in sorted(wanted):
            ctx.keep(_IDIOMS[name](graph), _REASON)


def _layer_norms(graph: Graph) -> Iterator[Node]:
    """The quotient of each normalization that is written out, the product and the sum behind it."""
    for root in graph.find("Sqrt"):
        if not root.is_standard or _made_by(root.inputs[0], "Add") is None:
            continue
        for quotient, index in root.outputs[0].uses():
            if quotient.op != "Div" or index != 1 or _made_by(quotient.inputs[0], "Sub") is None:
                continue
            product = _only_reader(quotient, "Mul")
            total = None if product is None else _only_reader(product, "Add")
            if product is None or total is None or not _is_old(total, _NORM_OPSET):
                continue
            if all(any(v is not None and v.is_const for v in n.inputs) for n in (product, total)):
                yield from (quotient, product, total)


def _gelus(graph: Graph) -> Iterator[Node]:
    """Half of x times one plus erf(x / √2), with the half before or behind."""
    for erf in graph.find("Erf"):
        argument = erf.inputs[0].producer if erf.inputs[0] is not None else None
        one = _only_reader(erf, "Add")
        product = None if one is None else _only_reader(one, "Mul")
        if argument is None or argument.op not in ("Div", "Mul") or product is None or one is None:
            continue
        if not _is_old(erf, _GELU_OPSET):
            continue
        yield from (argument, erf, one, product)
        half = _only_reader(product, "Mul") or next(
            (n for v in product.inputs if (n := _made_by(v, "Mul")) is not None), None
        )
        if half is not None and any(v is not None and v.is_const for v in half.inputs):
            yield half


def _masked_attentions(graph: Graph) -> Iterator[Node]:
    """Softmax(q k / c + (1 - mask) * -10000) v: the quotient, what gives the mask its axes, and the projections."""
    for softmax in graph.find("Softmax"):
        total = _made_by(softmax.inputs[0], "Add")
        if total is None or not _is_old(softmax, _ATTENTION_OPSET):
            continue
        quotient, scaled = (_made_by(total.inputs[i], op) for i, op in ((0, "Div"), (1, "Mul")))
        inverted = None if scaled is None else _made_by(scaled.inputs[0], "Sub")
        if quotient is None or inverted is None or _made_by(quotient.inputs[0], "MatMul") is None:
            continue
        given = inverted.inputs[1]
        cast = _made_by(given, "Cast")
        outer = _made_by(given if cast is None else cast.inputs[0], "Unsqueeze")
        inner = None if outer is None else _made_by(outer.inputs[0], "Unsqueeze")
        if outer is not None and inner is not None:
            yield from (quotient, outer, inner)
            yield from _projections(softmax, quotient)


def _projections(softmax: Node, quotient: Node) -> Iterator[Node]:
    """What gives queries, keys, values and the result: the products apart, and sums with biases, which may be zeros."""
    scores, product = _made_by(quotient.inputs[0], "MatMul"), _only_reader(softmax, "MatMul")
    if scores is None or product is None:
        return
    for operand in (*scores.inputs, product.inputs[1]):
        turned = _made_by(operand, "Transpose")
        split = None if turned is None else _made_by(turned.inputs[0], "Reshape")
        bias = None if split is None else _made_by(split.inputs[0], "Add")
        if bias is not None:
            yield bias
            yield from (n for v in bias.inputs if (n := _made_by(v, "MatMul")) is not None)
    node: Node | None = product
    for op in ("Transpose", "Reshape", "MatMul", "Add"):
        node = None if node is None else _only_reader(node, op)
    if node is not None:
        yield node


def _residual_sums(graph: Graph) -> Iterator[Node]:
    """Sums that stand in front of normalizations, and are no Add: see the pass `contrib`."""
    for node in graph.find("Sum"):
        if node.is_standard and is_normalized(node):
            yield node


def is_normalized(node: Node) -> bool:
    """Whether a result is the operand of one normalization, be it an operator or written out, and of nothing else."""
    total = node.outputs[0]
    readers = [(reader.op, index) for reader, index in total.uses() if reader.is_standard]
    if total.is_output or len(readers) != total.use_count:
        return False
    return readers == [("LayerNormalization", 0)] or set(readers) == {("ReduceMean", 0), ("Sub", 0)}


def _made_by(value: Value | None, op: str) -> Node | None:
    node = None if value is None else value.producer
    return node if node is not None and node.is_standard and node.op == op else None


def _only_reader(node: Node, op: str) -> Node | None:
    readers = [reader for reader, _ in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and readers[0].op == op and readers[0].is_standard else None


def _is_old(node: Node, opset: int) -> bool:
    return node.is_standard and node.version < opset


_IDIOMS: dict[str, Callable[[Graph], Iterator[Node]]] = {
    "layer_norm": _layer_norms, "gelu": _gelus, "masked_attention": _masked_attentions, "residual_sum": _residual_sums,
}  # fmt: skip
