"""From a replacement's expression to nodes: constant parts are computed, the rest is built off-graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.draft import Decline
from graphopt.ir.edit import Rewrite
from graphopt.ir.model import Model
from graphopt.ir.numeric import Undefined, Unsupported, evaluate
from graphopt.ir.value import DType, Value
from graphopt.rules.expr import Literal, OpExpr, Out, Tensor
from graphopt.rules.leaf import Leaf
from graphopt.rules.operators import check_operator

_WIDE = {
    DType.FLOAT16: np.float32,
    DType.BFLOAT16: np.float32,
    DType.FLOAT: np.float64,
}
_SMALL = 2.0**-13  # no dtype loses bits to underflow above this
_LOST = 2.0**-7  # of the size of a number: as much as rounding to bfloat16 costs


@dataclass(slots=True)
class Folded:
    """A computed constant: `array` in a wider type than `dtype`, so that only the end result is rounded."""

    array: np.ndarray
    dtype: DType
    origin: Value | None = None  # the constant that it is, if nothing was computed


Lowered = Value | Folded


class Lowering:
    """Lowers the expressions of one rewrite. Shared subexpressions become shared nodes.

    `places`: what the results take the place of. An operator that has no schema, of another domain, is believed to
    give results of the same type. `exact`: what is constant by chance is left to the runtime to compute, for it
    rounds otherwise than we do.
    """

    def __init__(
        self, rewrite: Rewrite, model: Model, domains: frozenset[str] | None, stem: str,
        places: Sequence[tuple[Tensor, Value]] = (), *, exact: bool = False,
    ) -> None:
        self._rewrite = rewrite
        self._model = model
        self._domains = domains
        self._stem = stem
        self._nodes: dict[OpExpr, tuple[Value, ...] | tuple[Folded, ...]] = {}
        self._constants: dict[int, tuple[Folded, Value]] = {}
        self._exact = exact
        self._left_alone: set[Value] = set()
        self._places: dict[OpExpr, dict[int, Value]] = {}
        for x, like in places:
            if isinstance(x, Out):
                self._places.setdefault(x.node, {})[x.index] = like
        self.added: list[str] = []

    def value(self, x: Tensor, like: Value) -> Value:
        """The graph value of a replacement's output, which takes the place of `like`."""
        if isinstance(x, Literal):
            assert like.dtype is not None
            return self._materialise(Folded(np.asarray(x.content), like.dtype))
        return self._materialise(self._lower(x))

    def _lower(self, x: Tensor) -> Lowered:
        if isinstance(x, Leaf):
            if self._exact and not x.declared:
                self._left_alone.add(x.value)
            return x.value
        if isinstance(x, Out):
            if x.node not in self._nodes:
                self._nodes[x.node] = self._apply(x.node)
            return self._nodes[x.node][x.index]
        raise TypeError(f"a replacement is made of operators and the pattern's parameters, not of {x!r}")

    def _apply(self, expr: OpExpr) -> tuple[Value, ...] | tuple[Folded, ...]:
        name = expr.ops[0]
        if self._domains is not None and expr.domain not in self._domains:
            raise Decline(f"the target does not take operators of {expr.domain!r}")
        check_operator(expr, "the replacement")
        operands: list[Lowered | None] = [
            None if x is None or isinstance(x, Literal) else self._lower(x) for x in expr.inputs
        ]
        for i, operand in enumerate(expr.inputs):
            if isinstance(operand, Literal):
                operands[i] = self._literal(expr, i, operand.content, operands)
        folded = self._fold(expr, operands)
        if folded is not None:
            return folded
        inputs = [None if o is None else self._materialise(o) for o in operands]
        self.added.append(name)
        known = self._places.get(expr, {}) if expr.domain != "" else {}
        alike = [known.get(i) for i in range(expr.outputs)] if known else None
        return self._rewrite.node(name, inputs, _attrs(expr), domain=expr.domain, outputs=expr.outputs, assume=alike)

    def _fold(self, expr: OpExpr, operands: list[Lowered | None]) -> tuple[Folded, ...] | None:
        """The outputs as constants, if every operand is one; None otherwise."""
        leaves = [o for o in operands if isinstance(o, Value)]
        if expr.domain != "" or any(not o.is_const or o in self._left_alone for o in leaves):
            return None
        constants = [None if o is None else self._read(o) for o in operands]
        name = expr.ops[0]
        try:
            arrays = evaluate(
                name, "", self._model.opset(), [None if c is None else c.array for c in constants], _attrs(expr),
                n_outputs=expr.outputs, wide=any(c is not None and c.dtype in _WIDE for c in constants),
            )
        except (Undefined, Unsupported) as reason:
            raise Decline(f"{name} of constants: {reason}") from None
        if not all(map(_is_finite, arrays)) and all(c is None or _is_finite(c.array) for c in constants):
            raise Decline(f"{name} of finite constants is not finite")
        if name in ("Cast", "CastLike"):
            return (_rounded(arrays[0], DType(expr.attrs["to"]) if name == "Cast" else _present(constants)[1].dtype),)
        return tuple(Folded(a, _narrow(a, constants)) for a in arrays)

    def _read(self, operand: Lowered) -> Folded:
        if isinstance(operand, Folded):
            return operand
        array, dtype = operand.array(), operand.dtype
        assert array is not None and dtype is not None
        wide = _WIDE.get(dtype)
        return Folded(array if wide is None else array.astype(wide), dtype, operand)

    def _literal(self, expr: OpExpr, index: int, content: Any, operands: list[Lowered | None]) -> Folded:
        """A literal operand, in the dtype that the operator's schema gives it beside its other operands."""
        dtype = self._literal_dtype(expr, index, operands) or _natural(content)
        array = np.asarray(content)
        if dtype in _WIDE:
            return Folded(array.astype(_WIDE[dtype]), dtype)
        if array.dtype.kind == "f" and dtype.is_integer() and not np.all(array == np.trunc(array)):
            raise Decline(f"{content!r} is no {dtype.name.lower()}")
        return Folded(array.astype(dtype.numpy()), dtype)

    def _literal_dtype(self, expr: OpExpr, index: int, operands: list[Lowered | None]) -> DType | None:
        formal = self._model.facts.formal_types(expr.domain, expr.ops[0])
        if not formal:
            return None
        mine = formal[min(index, len(formal) - 1)]
        for i, operand in enumerate(operands):
            if operand is not None and i != index and formal[min(i, len(formal) - 1)] == mine:
                return operand.dtype
        return DType.INT64 if mine == "tensor(int64)" else None

    def _materialise(self, x: Lowered) -> Value:
        if isinstance(x, Value):
            return x
        if x.origin is not None:
            return x.origin
        key = id(x)
        if key not in self._constants:
            with np.errstate(all="ignore"):
                array = x.array.astype(x.dtype.numpy())
            if _finite(array) < _finite(x.array):
                raise Decline(f"a computed constant is too large for {x.dtype.name.lower()}")
            if x.dtype in _WIDE and _vanishes(x.array, array):
                raise Decline(f"a computed constant is too small for {x.dtype.name.lower()}")
            self._constants[key] = (x, self._rewrite.constant(array, f"{self._stem}_const"))
        return self._constants[key][1]


def _is_finite(array: np.ndarray) -> bool:
    """Whether it holds neither infinities nor NaN; what is no float cannot."""
    return array.dtype.kind in "biuOSU" or bool(np.isfinite(array).all())


def _finite(array: np.ndarray) -> int:
    """How many elements are neither infinite nor NaN."""
    return array.size if array.dtype.kind in "biuOSU" else int(np.count_nonzero(np.isfinite(array)))


def _vanishes(exact: np.ndarray, rounded: np.ndarray) -> bool:
    """Whether even the largest element lost its bits to underflow."""
    sizes = np.abs(exact)
    i = int(np.argmax(sizes)) if sizes.size else 0
    largest = float(sizes.flat[i]) if sizes.size else 0.0
    return 0 < largest < _SMALL and abs(float(rounded.flat[i]) - exact.flat[i]) > _LOST * largest


def _attrs(expr: OpExpr) -> dict[str, Any]:
    return {k: v for k, v in expr.attrs.items() if v is not None}


def _present(operands: list[Folded | None]) -> list[Folded]:
    return [o for o in operands if o is not None]


def _rounded(array: np.ndarray, dtype: DType) -> Folded:
    """A constant that was cast: unlike arithmetic, a cast means to round."""
    with np.errstate(all="ignore"):
        narrow = array.astype(dtype.numpy())
    return Folded(narrow.astype(_WIDE[dtype]) if dtype in _WIDE else narrow, dtype)


def _narrow(array: np.ndarray, operands: list[Folded | None]) -> DType:
    """The ONNX dtype of a result computed wide: that of the float operands, if the result is a float."""
    natural = DType.from_numpy(array.dtype)
    if not natural.is_floating_point():
        return natural
    return next((o.dtype for o in operands if o is not None and o.dtype.is_floating_point()), natural)


def _natural(content: Any) -> DType:
    """The dtype of a literal that stands beside nothing that would determine it: an array keeps its own."""
    if isinstance(content, np.ndarray):
        return DType.from_numpy(content.dtype)
    kind = np.asarray(content).dtype.kind
    return {"b": DType.BOOL, "i": DType.INT64, "u": DType.INT64}.get(kind, DType.FLOAT)
