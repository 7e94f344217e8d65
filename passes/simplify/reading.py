"""Reading what operators say in different ways at different opsets, and writing sizes as constants."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt import Dim, Node, Value, require

Sizes = tuple[int | Dim | None, ...]
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


def ints(node: Node, index: int, attribute: str, since: int) -> tuple[int, ...] | None:
    """Integers that are an attribute before opset `since`, and an input from then on; None if left out.

    Declines the rewrite if they are not fixed numbers.
    """
    if node.version < since:
        given = node.attr(attribute)
        if given is None:
            return None
        require(isinstance(given, list | tuple), f"{attribute} is an attribute of the function's caller")
        return tuple(int(i) for i in given)
    value = operand(node, index)
    if value is None:
        return None
    found = fixed(value)
    require(found is not None, f"the {attribute} of {node.op} are not fixed")
    return found


def operand(node: Node, index: int) -> Value | None:
    """The input at `index`, None if it is left out."""
    inputs = node.inputs
    return inputs[index] if index < len(inputs) else None


def fixed(value: Value) -> tuple[int, ...] | None:
    """The elements of a small integer tensor, if shapes or constants determine all of them."""
    elements = value.symbolic
    if elements is None or not all(isinstance(e, int) for e in elements):
        return None
    return tuple(e for e in elements if isinstance(e, int))


def from_front(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front. Declines the rewrite if one is out of range or comes twice."""
    require(all(-rank <= a < rank for a in axes), "an axis is out of range")
    found = [a % rank for a in axes]
    require(len(set(found)) == len(found), "an axis comes twice")
    return found


def same_sizes(a: Sizes | None, b: Sizes | None) -> bool:
    """Whether two shapes are equal whatever the inputs of the model are."""
    return a is not None and a == b and None not in a


def result_shape(node: Node) -> Sizes:
    """The shape of a node's first output. Declines the rewrite if the rank is not known."""
    shape = node.outputs[0].shape
    if shape is None:
        require(False, "the rank of the result is not known")
    assert shape is not None
    return shape


def reshape_target(old: Sizes, new: Sizes) -> list[int]:
    """The constant with which Reshape makes a tensor of shape `old` one of shape `new`.

    Declines the rewrite where a constant cannot say it for all sizes.
    """
    target, reason = find_target(old, new)
    require(not reason, reason)
    return target


def find_target(old: Sizes, new: Sizes) -> tuple[list[int], str]:
    """As `reshape_target`, with the reason why there is none, which is empty if there is one.

    Sizes that stay at their place are copied (0), at most one other is inferred (-1). A size of 0 is thought of, too:
    Reshape infers nothing beside one.
    """
    target: list[int] = []
    inferred = vanishing = 0
    for i, size in enumerate(new):
        stays = i < len(old) and size is not None and old[i] == size
        if isinstance(size, int) and size != 0:
            target.append(size)
        elif stays:
            target.append(0)
            vanishing += not (isinstance(size, Dim) and size.at_least(1))
        elif size == 0:
            return [], "a size of 0 cannot be written where the operand has another"
        else:
            target.append(-1)
            inferred += 1
    if inferred > 1:
        return [], "more than one size of the result is not fixed"
    if inferred and vanishing:
        return [], "a size that may be 0 stands beside the one to infer"
    return target, ""


def require_gone(inner: Node, *ops: str) -> None:
    """Decline the rewrite unless only `ops` read the node's result, so that all of them can do without it."""
    value = inner.outputs[0]
    others = value.is_output or any(reader.op not in ops for reader, _ in value.uses())
    require(not others, "an interior value has other readers")
