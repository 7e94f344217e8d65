"""Reading which elements of the last axis of a tensor a value consists of."""

from __future__ import annotations

from graphopt import Node, Value

Span = tuple[Value, int, int, int]


def span(value: Value | None) -> Span | None:
    """The tensor of whose last axis `value` is a part, and from where to where in which steps."""
    node = None if value is None else value.producer
    if value is None or node is None or not node.is_standard or not node.inputs or node.inputs[0] is None:
        return None
    x = node.inputs[0]
    size = (x.shape or (None,))[-1]
    if not isinstance(size, int):
        return None
    if node.op == "Slice" and node.version >= 10:
        return _of_slice(node, x, size)
    if node.op == "Split" and node.attr("axis", 0) in (-1, (x.rank or 0) - 1):
        begin = 0
        for part in node.outputs:
            width = (part.shape or (None,))[-1]
            if not isinstance(width, int):
                return None
            if part == value:
                return x, begin, begin + width, 1
            begin += width
    return None


def _of_slice(node: Node, x: Value, size: int) -> Span | None:
    given = [None if v is None else v.symbolic for v in (*node.inputs[1:], None, None)][:4]
    starts, ends, axes, steps = given
    rank = x.rank
    if any(v is not None and s is None for v, s in zip(node.inputs[1:], given, strict=False)):
        return None
    if starts is None or ends is None or rank is None or len(starts) != 1:
        return None
    axis, step = (0 if axes is None else axes[0]), (1 if steps is None else steps[0])
    start, end = starts[0], ends[0]
    if not (isinstance(axis, int) and isinstance(step, int) and isinstance(start, int) and isinstance(end, int)):
        return None
    if axis % rank != rank - 1 or step < 1:
        return None
    begin, stop, step = slice(start, end, step).indices(size)
    return x, begin, stop, step


def pair(first: Value | None, second: Value | None, interleaved: bool) -> Value | None:
    """The tensor of which these are the firsts and the seconds of all pairs: the halves, or every other element."""
    split = _unpacked(first, second) if interleaved else None
    if split is not None:
        return split
    a, b = span(first), span(second)
    if a is None or b is None or a[0] != b[0]:
        return None
    x, size = a[0], (a[0].shape or (None,))[-1]
    if not isinstance(size, int) or size % 2:
        return None
    if interleaved:
        fits = a[1:] == (0, size, 2) and b[1:] == (1, size, 2)
    else:
        fits = a[1:] == (0, size // 2, 1) and b[1:] == (size // 2, size, 1)
    return x if fits else None


def _unpacked(first: Value | None, second: Value | None) -> Value | None:
    """x, of which both are one part each after the last axis is split into pairs."""
    sources = []
    for value, place in ((first, 0), (second, 1)):
        node = None if value is None else value.producer
        if node is None or not node.is_standard or node.inputs[0] is None or value is None:
            return None
        inner = node.inputs[0]
        rank = inner.rank or 0
        if node.op == "Squeeze" and (inner.shape or (0,))[-1] == 1 and value.shape == (inner.shape or ())[:-1]:
            part = span(inner)
            if part is None or part[1:] != (place, place + 1, 1):
                return None
            sources.append(part[0])
        elif node.op == "Gather" and node.attr("axis", 0) in (-1, rank - 1) and value.rank == rank - 1:
            index = None if node.inputs[1] is None else node.inputs[1].symbolic
            if index not in ((place,), (place - 2,)):
                return None
            sources.append(inner)
        else:
            return None
    made = sources[0].producer
    if sources[0] != sources[1] or made is None or made.op != "Reshape" or not made.is_standard:
        return None
    x, pairs = made.inputs[0], sources[0].shape
    if x is None or x.shape is None or pairs is None or None in x.shape or pairs[-1] != 2:
        return None
    width = x.shape[-1]
    return x if isinstance(width, int) and pairs[:-1] == (*x.shape[:-1], width // 2) and width % 2 == 0 else None


def stacked(value: Value) -> tuple[Value | None, Value | None] | None:
    """(a, b) of a value that has the elements of a and b in turn: Reshape(Concat(Unsqueeze(a), Unsqueeze(b)))."""
    merge = value.producer
    joined = None if merge is None or merge.op != "Reshape" or merge.inputs[0] is None else merge.inputs[0].producer
    if joined is None or joined.op != "Concat" or not joined.is_standard or len(joined.inputs) != 2:
        return None
    wide = joined.outputs[0].shape
    if wide is None or joined.attr("axis") not in (-1, len(wide) - 1):
        return None
    if value.shape is None or None in value.shape[:-1]:
        return None
    width = value.shape[-1]
    if not isinstance(width, int) or wide != (*value.shape[:-1], width // 2, 2):
        return None
    found = []
    for v in joined.inputs:
        node = None if v is None else v.producer
        if node is None or node.op not in ("Unsqueeze", "Reshape") or not node.is_standard:
            return None
        x = node.inputs[0]
        if v is None or v.shape is None:
            return None
        if x is None or x.shape != v.shape[:-1] or v.shape[-1] != 1:
            return None
        found.append(x)
    return found[0], found[1]
