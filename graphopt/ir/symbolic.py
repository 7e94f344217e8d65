"""The elements of shape tensors, as polynomials: what `Shape → Gather → Mul → Concat` computes, before it runs.

Small tensors are evaluated where everything is known, and integer ones symbolically where sizes are not. An
integer that nothing is known of becomes a symbol of its own, so that it is at least equal to itself.
Everything is computed once, on demand, without recursion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as oir

from graphopt.ir import numeric
from graphopt.ir.dims import Dim, Shape, at_least, at_most, exact_quotient, product, static
from graphopt.ir.kernel import Array, Call, Undefined, Unsupported
from graphopt.ir.movement import MOVEMENT, SHAPE_ONLY, shape_bounds

MAX_ELEMENTS = 64
_INT = frozenset({oir.DataType.INT32, oir.DataType.INT64})
_EVALUATED = _INT | {oir.DataType.BOOL, oir.DataType.FLOAT, oir.DataType.DOUBLE}
_OBJECT = np.dtype(object)
# Operators that give the same bits in every runtime: no Exp, whose last bit differs, before a Floor.
_EXACT = frozenset(MOVEMENT) | frozenset(SHAPE_ONLY) | frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Round", "Sign", "Sqrt", "Sub", "Xor",
})
_INEXACT_ON_FLOATS = frozenset({"ReduceProd", "ReduceSum"})


class Source(Protocol):
    """What the evaluation asks the facts about."""

    def dtype(self, value: oir.Value) -> oir.DataType | None: ...
    def shape(self, value: oir.Value) -> Shape | None: ...
    def array(self, value: oir.Value) -> Array | None: ...
    def const(self, value: oir.Value) -> oir.TensorProtocol | None: ...
    def standard_version(self, node: oir.Node) -> int | None: ...
    def fresh(self, *, size: bool = True) -> Dim: ...


class ShapeValues:
    """The known elements of small tensors, by value."""

    def __init__(self, facts: Source) -> None:
        self._facts = facts
        self._known: dict[oir.Value, Array | None] = {}

    def forget(self, value: oir.Value) -> None:
        self._known.pop(value, None)

    def keep(self, value: oir.Value, found: Array | None) -> None:
        """Let these be the elements of a value."""
        self._known[value] = found

    def is_computed(self, value: oir.Value) -> bool:
        """Whether somebody has asked for the elements of a value that are no constant."""
        return value in self._known

    def of(self, value: oir.Value) -> Array | None:
        """The elements: numbers in the tensor's dtype, or objects (`int` or `Dim`); None if not known."""
        known = self._known
        stack, opened = [value], set[oir.Value]()
        while stack:
            top = stack[-1]
            node = top.producer()
            if top in known:
                stack.pop()
            elif node is None or self._size(top) is None or self._facts.const(top) is not None:
                known[top] = self._leaf(top)
            elif top in opened:
                self._compute(node)
            else:
                opened.add(top)
                stack += [v for v in self._operands(node) if v not in known and v not in opened]
        return known[value]

    def _size(self, value: oir.Value) -> tuple[int, ...] | None:
        """The shape of a tensor that is small enough, of a dtype that is evaluated."""
        if self._facts.dtype(value) not in _EVALUATED:
            return None
        shape = static(self._facts.shape(value))
        return shape if shape is not None and math.prod(shape) <= MAX_ELEMENTS else None

    def _leaf(self, value: oir.Value) -> Array | None:
        if self._size(value) is None:
            return None
        return self._facts.array(value) if self._facts.const(value) is not None else self._opaque(value)

    def _opaque(self, value: oir.Value) -> Array | None:
        shape = self._size(value)
        if shape is None or len(shape) > 1 or self._facts.dtype(value) not in _INT:
            return None
        return _objects([self._facts.fresh(size=False) for _ in range(math.prod(shape))], shape)

    def _operands(self, node: oir.Node) -> list[oir.Value]:
        if node.op_type in ("Shape", "Size") or node.op_type not in _EXACT:
            return []
        return [v for v in node.inputs if v is not None]

    def _compute(self, node: oir.Node) -> None:
        results: Sequence[Array] | None = None
        version = self._facts.standard_version(node)
        if version is not None and node.op_type in _EXACT:
            try:
                results = self._evaluate(node, version)
            except (Undefined, Unsupported, OverflowError):
                results = None
        for i, output in enumerate(node.outputs):
            found = results[i] if results is not None and i < len(results) else None
            if found is None or found.shape != self._size(output):
                self._known[output] = self._opaque(output)
            else:
                self._known[output] = self._typed(found, output)

    def _typed(self, found: Array, output: oir.Value) -> Array | None:
        """Numbers in the tensor's own dtype as soon as no symbol is left; objects are for symbols only."""
        dtype = self._facts.dtype(output)
        assert dtype is not None, "a value with a size has a dtype"
        if found.dtype != _OBJECT:
            return found if found.dtype == dtype.numpy() else self._opaque(output)
        if any(isinstance(x, Dim) for x in found.flat):
            return found
        try:
            return found.astype(dtype.numpy())
        except OverflowError:
            return self._opaque(output)

    def _evaluate(self, node: oir.Node, version: int) -> Sequence[Array] | None:
        if any(attr.is_ref() for attr in node.attributes.values()):
            return None
        attrs = {name: attr.value for name, attr in node.attributes.items()}
        op = node.op_type
        if op in ("Shape", "Size"):
            return self._sizes(node, attrs)
        arrays = [None if v is None else self._known.get(v) for v in node.inputs]
        if any(a is None and v is not None for a, v in zip(arrays, node.inputs, strict=True)):
            return None
        if all(a is None or a.dtype != _OBJECT for a in arrays):
            if op in _INEXACT_ON_FLOATS and arrays[0] is not None and arrays[0].dtype.kind == "f":
                return None
            return numeric.evaluate(op, "", version, arrays, attrs, len(node.outputs), budget=1 << 16)
        if op in MOVEMENT:
            return self._moved(Call(op, version, arrays, attrs, 1 << 16, len(node.outputs)))
        return self._symbolic(node, arrays, attrs)

    def _sizes(self, node: oir.Node, attrs: dict[str, Any]) -> Sequence[Array] | None:
        shape = None if node.inputs[0] is None else self._facts.shape(node.inputs[0])
        if shape is None or None in shape:
            return None
        sizes: list[Any] = list(shape)
        if node.op_type == "Size":
            return [_objects([product(sizes)], ())]
        sizes = sizes[slice(*shape_bounds(attrs.get("start", 0), attrs.get("end"), len(sizes)))]
        return [_objects(sizes, (len(sizes),))]

    def _moved(self, call: Call) -> Sequence[Array] | None:
        data = 3 if call.op == "Where" else len(call.inputs) if call.op == "Concat" else 1
        operands: list[Array | None] = []
        for i, array in enumerate(call.inputs):
            moved = i < data and not (call.op == "Where" and i == 0)
            if array is not None and array.dtype == _OBJECT and not moved:
                return None
            operands.append(array.astype(_OBJECT) if array is not None and moved else array)
        return MOVEMENT[call.op](Call(call.op, call.version, operands, call.attrs, call.budget, call.n_outputs))

    def _symbolic(self, node: oir.Node, arrays: list[Array | None], attrs: dict[str, Any]) -> Sequence[Array] | None:
        """Arithmetic on integers of which some are symbols; None where the result is not determined."""
        op = node.op_type
        operands = [a for a in arrays if a is not None]
        if any(a.dtype.kind not in "iO" for a in operands):
            return None
        wraps = any(self._facts.dtype(v) != oir.DataType.INT64 for v in node.inputs if v is not None)
        if wraps and not all(_is_size(x) for a in operands for x in a.flat) and op != "Cast":
            return None  # polynomials stay true when int64 wraps around, but not when a narrower type does
        if op == "Cast":
            return self._cast(node, operands[0], int(attrs["to"]))
        if op.startswith("Reduce"):
            return self._reduce(op, node, arrays, attrs)
        function = _ELEMENTWISE.get(op)
        if function is None or (op == "Mod" and attrs.get("fmod")):
            return None
        function = _folded(function) if op in ("Max", "Min") else function
        columns = [a.flat for a in np.broadcast_arrays(*[a.astype(_OBJECT) for a in operands])]
        shape = np.broadcast_shapes(*[a.shape for a in operands])
        results: list[Any] = []
        for elements in zip(*columns, strict=True):
            result = function(*elements)
            if result is None:
                return None
            if isinstance(result, int) and not -(2**63) <= result < 2**63:
                raise OverflowError(f"{result} does not fit into int64")
            results.append(result)
        return [_objects(results, shape)]

    def _cast(self, node: oir.Node, x: Array, to: int) -> Sequence[Array] | None:
        source = node.inputs[0]
        widens = to == oir.DataType.INT64 and source is not None and self._facts.dtype(source) in _INT
        fits = to == oir.DataType.INT32 and all(_is_size(e) for e in x.flat)
        return [x] if widens or fits else None

    def _reduce(
        self, op: str, node: oir.Node, arrays: list[Array | None], attrs: dict[str, Any]
    ) -> Sequence[Array] | None:
        x = arrays[0]
        axes = arrays[1].reshape(-1).tolist() if len(arrays) > 1 and arrays[1] is not None else attrs.get("axes")
        function = _ELEMENTWISE.get(_FOLDED.get(op, ""))
        if x is None or function is None or (axes and axes not in ([0], [-1], (0,), (-1,))) or x.ndim != 1:
            return None
        if not axes and attrs.get("noop_with_empty_axes", 0):
            return [x]
        elements = list(x.flat)
        total = _folded(function)(*elements) if elements else None
        return None if total is None else [_objects([total], (1,) if attrs.get("keepdims", 1) else ())]


def _objects(elements: Sequence[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(elements), _OBJECT)
    array[:] = elements
    return array.reshape(shape)


def _is_size(x: Any) -> bool:
    return not isinstance(x, Dim) or x.is_size


def _folded(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fold(first: Any, *others: Any) -> Any:
        for other in others:
            first = None if first is None else function(first, other)
        return first

    return fold


def _ordered(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Only for sizes: k < k + 1 is not true of every int64."""

    def compare(a: Any, b: Any) -> Any:
        return function(a, b) if _is_size(a) and _is_size(b) else None

    return compare


def _div(a: Any, b: Any) -> Any:
    if b == 0:
        return None
    exact = exact_quotient(a, b)
    if exact is not None or not isinstance(b, int) or b < 1:
        return exact
    # ONNX rounds toward zero, `//` rounds down: the same where nothing is negative.
    return a // b if at_least(a, 0) else None


def _mod(a: Any, b: Any) -> Any:
    quotient = _div(a, b)
    return None if quotient is None else a - b * quotient


def _max(a: Any, b: Any) -> Any:
    return b if at_most(a, b) else a if at_most(b, a) else None


def _min(a: Any, b: Any) -> Any:
    return a if at_most(a, b) else b if at_most(b, a) else None


def _less(a: Any, b: Any) -> Any:
    return True if at_least(b - a, 1) else False if at_least(a - b, 0) else None


def _less_or_equal(a: Any, b: Any) -> Any:
    return True if at_least(b - a, 0) else False if at_least(a - b, 1) else None


def _equal(a: Any, b: Any) -> Any:
    if a == b:
        return True
    return False if at_least(a - b, 1) or at_least(b - a, 1) else None


def _abs(a: Any) -> Any:
    return a if at_least(a, 0) else None


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Neg": lambda a: -a,
    "Abs": _abs,
    "Div": _ordered(_div),
    "Mod": _ordered(_mod),
    "Max": _ordered(_max),
    "Min": _ordered(_min),
    "Equal": _ordered(_equal),
    "Less": _ordered(_less),
    "LessOrEqual": _ordered(_less_or_equal),
    "Greater": _ordered(lambda a, b: _less(b, a)),
    "GreaterOrEqual": _ordered(lambda a, b: _less_or_equal(b, a)),
}
_FOLDED = {"ReduceSum": "Add", "ReduceProd": "Mul", "ReduceMax": "Max", "ReduceMin": "Min"}
