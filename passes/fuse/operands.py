"""What Attention is given in place of a product of probabilities and values: operands with axes for heads."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt_passes.fuse.scores import Scores, Sizes, unscaled
from graphopt_passes.fuse.sizes import sizes as sizes_of
from graphopt_passes.fuse.weights import Weights

from graphopt import Dim, DType, Node, Value, require


@dataclass(frozen=True)
class Operands:
    """What Attention is given, and the value that it gives in place of. `shape`: that of the scores."""

    q: Value
    k: Value
    v: Value
    order: tuple[int, ...]  # in which the axes of k have to stand
    result: Value
    shape: Sizes
    grouped: bool


def queries_and_keys(scores: Scores) -> tuple[Value, tuple[Value, tuple[int, ...]], float]:
    """Queries; keys, and the order of axes that turns them; and by what both are multiplied."""
    q, q_scale = unscaled(scores.q)
    keys, k_scale = unscaled(scores.keys)
    rank = keys.rank or 0
    turned = (*range(rank - 2), rank - 1, rank - 2)
    flat = _turned_flat(keys)
    if flat is not None:
        source, inner = unscaled(flat)
        return q, (source, tuple(range(rank))), q_scale * k_scale * inner
    node = keys.producer
    if node is not None and node.op == "Transpose" and node.is_standard and node.inputs[0] is not None:
        perm = node.attr("perm", list(range(rank))[::-1])
        source, inner = unscaled(node.inputs[0])
        if sorted(perm) == list(range(rank)):
            return q, (source, tuple(perm[a] for a in turned)), q_scale * k_scale * inner
    return q, (keys, turned), q_scale * k_scale


def _turned_flat(value: Value) -> Value | None:
    """x of four axes, of which the last two are turned while the others are one: Reshape, Transpose, Reshape."""
    after = _made_by(value, "Reshape")
    turn = None if after is None else _made_by(after.inputs[0], "Transpose")
    before = None if turn is None else _made_by(turn.inputs[0], "Reshape")
    x = None if before is None else before.inputs[0]
    if x is None or before is None or turn is None or turn.attr("perm") != [0, 2, 1]:
        return None
    four, three, turned = sizes_of(x), sizes_of(before.outputs[0]), sizes_of(value)
    if four is None or three is None or turned is None or len(four) != 4 or len(three) != 3 or None in four:
        return None
    return x if four[2:] == three[1:] and turned == (*four[:2], four[3], four[2]) else None


def operands(q: Value, k: tuple[Value, tuple[int, ...]], weights: Weights) -> Operands:
    v, result = weights.product.inputs[1], weights.product.outputs[0]
    keys, order = k
    require(v is not None and v.rank == q.rank == keys.rank, "the operands have neither three nor four axes")
    assert v is not None
    split = _split(q), _split(keys), _split(v), _joined(result)
    if q.rank == 3 and order[0] == 0 and None not in split:
        assert split[0] is not None and split[1] is not None and split[2] is not None and split[3] is not None
        q, keys, v, result = split[0], split[1], split[2], split[3]
        order = (0, *(a + 1 for a in order))
    few_keys, few_values = repeated(keys), repeated(v)
    grouped = few_keys is not None and few_values is not None and order[:2] == (0, 1)
    if grouped and few_keys is not None and few_values is not None:
        keys, v = few_keys, few_values
    sizes, k_sizes = sizes_of(q) or (), sizes_of(keys) or ()
    return Operands(q, keys, v, order, result, (*sizes[:-1], k_sizes[order[-2]]), grouped)


def repeated(value: Value) -> Value | None:
    """The heads that `value` repeats, each so many times in a row: an axis is added, expanded and merged."""
    merge = _made_by(value, "Reshape")
    expand = None if merge is None else _made_by(merge.inputs[0], "Expand")
    insert = None if expand is None else _made_by(expand.inputs[0], "Unsqueeze", "Reshape")
    few = None if insert is None else insert.inputs[0]
    if few is None or expand is None or insert is None:
        return None
    one, more, after = few.shape, expand.outputs[0].shape, value.shape
    if one is None or more is None or after is None or (len(one), len(more), len(after)) != (4, 5, 4):
        return None
    batch, heads, _, width = one
    times = more[2]
    if not isinstance(heads, int) or not isinstance(times, int) or insert.outputs[0].shape != (*one[:2], 1, *one[2:]):
        return None
    # What is left for the sequence is its size, as the others are as before.
    same = more == (*one[:2], times, *one[2:]) and (after[0], after[1], after[3]) == (batch, heads * times, width)
    return few if same else None


def _made_by(value: Value | None, *ops: str) -> Node | None:
    node = None if value is None else value.producer
    return node if node is not None and node.op in ops and node.is_standard else None


def pending(value: Value) -> bool:
    """Whether a value is multiplied by a number that is made of constants, and will be one in a moment."""
    node = _made_by(value, "Mul", "Div")
    return node is not None and any(_is_number(v) for v in node.inputs)


def _is_number(value: Value | None) -> bool:
    """Whether a value of one element depends on constants only."""
    if value is None or value.is_const or any(d != 1 for d in value.shape or (2,)):
        return False
    pending = [value]
    for _ in range(16):
        if not pending:
            return True
        node = pending.pop().producer
        if node is None or node.bodies:
            return False
        pending.extend(v for v in node.inputs if v is not None and not v.is_const)
    return False


def _split(value: Value) -> Value | None:
    """The tensor with axes for batch and heads, of which `value` has one axis for both."""
    node = value.producer
    origin = node.inputs[0] if node is not None and node.op == "Reshape" and node.is_standard else None
    return origin if origin is not None and _folds(sizes_of(origin), sizes_of(value)) else None


def _joined(value: Value) -> Value | None:
    """What the only reader of `value` makes of it, if that is one axis for the batch and one for heads."""
    uses = value.uses()
    if len(uses) != 1 or value.is_output or uses[0][0].op != "Reshape" or not uses[0][0].is_standard or uses[0][1]:
        return None
    after = uses[0][0].outputs[0]
    return after if _folds(sizes_of(after), sizes_of(value)) else None


def _folds(four: Sizes | None, three: Sizes | None) -> bool:
    if four is None or three is None or len(four) != 4 or len(three) != 3 or None in four or four[2:] != three[1:]:
        return False
    batch, heads = four[0], four[1]
    return isinstance(batch, int | Dim) and isinstance(heads, int | Dim) and batch * heads == three[0]


def require_kernel(given: Operands) -> None:
    """What ONNX Runtime's kernel needs: the same batch and heads, nothing empty, sizes that are known."""
    q, k, v = given.q, given.k, given.v
    require(q.dtype in (DType.FLOAT, DType.FLOAT16), "the scale is a float32, or there is no kernel for this dtype")
    queries, k_sizes, values = sizes_of(q), sizes_of(k), sizes_of(v)
    assert queries is not None and k_sizes is not None and values is not None
    keys = tuple(k_sizes[a] for a in given.order)
    for axis, (a, b, c) in enumerate(zip(queries[:-2], keys[:-2], values[:-2], strict=True)):
        grouped = axis == 1 and given.grouped and isinstance(a, int) and isinstance(b, int) and b and a % b == 0
        same = a is not None and b == c and (a == b or grouped)
        require(same, "batch or heads of queries, keys and values may differ")
    require(not any(d == 0 for d in (*queries, *keys, *values)), "an operand is empty")
    fixed = [queries[-1], values[-1], *queries[1:-2]]
    require(all(isinstance(d, int) for d in fixed), "the number of heads or their size is not known")
