"""Casts: those that change nothing, and those that undo or repeat one another."""

from __future__ import annotations

from graphopt_passes.simplify.reading import require_gone

from graphopt import Attr, DType, Node, Tensor, op, require, rule

_FLOATS = {DType.FLOAT16: 11, DType.BFLOAT16: 8, DType.FLOAT: 24, DType.DOUBLE: 53}  # bits of precision
_SIGNED = {DType.INT8: 7, DType.INT16: 15, DType.INT32: 31, DType.INT64: 63}
_UNSIGNED = {DType.UINT8: 8, DType.UINT16: 16, DType.UINT32: 32, DType.UINT64: 64}


def _cast(x: Tensor, to: Attr[int]) -> Tensor:
    return op.Cast(x, ..., to=to)


def _cast_cast(x: Tensor, middle: Attr[int], to: Attr[int], inner: Node) -> Tensor:
    return op.Cast(inner.bind(op.Cast(x, to=middle)), to=to)


@rule(_cast, accuracy="exact", single_use=False)
def cast_noop(x: Tensor, to: int) -> Tensor:
    """Casting to the dtype that a tensor already has changes nothing."""
    require(x.dtype == to, "the dtype changes")
    return x


@rule(lambda x, t: op.CastLike(x, t, ...), accuracy="exact", single_use=False)
def cast_like_noop(x: Tensor, t: Tensor) -> Tensor:
    """Casting to the dtype of another tensor changes nothing if both have the same."""
    require(x.dtype == t.dtype, "the dtype changes")
    return x


@rule(_cast_cast, accuracy="exact", single_use=False, bounded=True)
def cast_cast(x: Tensor, middle: int, to: int, inner: Node) -> Tensor:
    """A cast to a dtype that holds every value of the operand's, cast on, is one cast."""
    source, between, target = x.dtype, DType(middle), DType(to)
    require(holds(between, source), f"{between.name.lower()} does not hold every {source.name.lower()}")
    if source == target:
        return x
    known = target in _FLOATS or target in _SIGNED or target in _UNSIGNED or target == DType.BOOL
    require(known, f"a cast to {target.name.lower()} is left alone")
    # What a float beyond the integer's range becomes is up to the runtime, and may differ between float types.
    defined = target in _FLOATS or target == DType.BOOL or between not in _FLOATS or holds(target, source)
    require(defined, "floats beyond the range of an integer have no defined result")
    require_gone(inner, "Cast")
    return op.Cast(x, to=to)


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if wide == narrow:
        return True
    if narrow == DType.BOOL:
        return wide in _FLOATS or wide in _SIGNED or wide in _UNSIGNED
    if narrow in _FLOATS:
        return (narrow, wide) != (DType.FLOAT16, DType.BFLOAT16) and _FLOATS.get(wide, 0) > _FLOATS[narrow] and (
            narrow != DType.BFLOAT16 or wide != DType.FLOAT16
        )
    bits = _SIGNED.get(narrow) or _UNSIGNED.get(narrow)
    if bits is None:
        return False
    if wide in _FLOATS:
        return _FLOATS[wide] >= bits
    if wide in _SIGNED:
        return _SIGNED[wide] >= bits
    return narrow in _UNSIGNED and _UNSIGNED.get(wide, 0) >= bits
