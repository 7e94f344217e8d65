"""Types of the most common operators without a call into C++: the same checks, several times faster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import onnx_ir as oir

from graphopt.ir import shapes
from graphopt.ir.dims import Dim, Shape, broadcast, known, product, static
from graphopt.ir.native import Fact
from graphopt.ir.schemas import Inconsistent, check_arity, lookup
from graphopt.ir.site import Site

_ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Ceil", "Div", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid",
    "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor",
})
_FIRST_OPSET = 7  # before it, broadcasting was an attribute


class _Signature(NamedTuple):
    inputs: tuple[tuple[str, str, frozenset[oir.DataType]], ...]  # name, type variable, dtypes
    output: str | oir.DataType


@functools.cache
def _signature(op: str, version: int) -> _Signature | None:
    schema = lookup("", op, version)
    if schema is None:
        return None
    inputs = tuple((formal.name, formal.type_str, frozenset(map(_dtype, formal.types))) for formal in schema.inputs)
    result = schema.outputs[0]
    tied = any(variable == result.type_str for _, variable, _ in inputs)
    return _Signature(inputs, result.type_str if tied else _dtype(next(iter(result.types))))


def _dtype(name: str) -> oir.DataType:
    return oir.DataType[_NAMES.get(name, name.removeprefix("tensor(").removesuffix(")").upper())]


_NAMES = {"tensor(float)": "FLOAT", "tensor(double)": "DOUBLE"}


def fast_types(node: oir.Node, version: int, inputs: list[Fact], site: Site) -> list[Fact] | None:
    """The output of a common node, or None if that needs the full inference. Raises `Inconsistent`.

    `site`: the node as the functions see it that work out shapes.
    """
    if node.domain != "" or version < _FIRST_OPSET:
        return None
    shaped = _SHAPED.get(node.op_type)
    if shaped is not None:
        return _typed(node, version, inputs, site, shaped)
    if node.op_type not in _ELEMENTWISE or node.attributes:
        return None
    signature = _signature(node.op_type, version)
    if signature is None or None in node.inputs:
        return None
    sizes = [fact.shape for fact in inputs]
    known = [shape for shape in sizes if shape is not None]
    if len(known) < len(sizes) or any(fact.dtype is None for fact in inputs):
        return None
    schema = lookup("", node.op_type, version)
    assert schema is not None, "it has a signature"
    check_arity(schema, len(inputs), len(node.outputs))
    dtype = _bound(node, signature, inputs)
    try:
        return [Fact(dtype, broadcast(known))]
    except ValueError as error:
        raise Inconsistent(f"{node.op_type} is refused: {error}") from None


def _bound(node: oir.Node, signature: _Signature, inputs: list[Fact]) -> oir.DataType | None:
    """The dtype of the output; each type variable of the schema must stand for one dtype."""
    bound: dict[str, oir.DataType] = {}
    last = len(signature.inputs) - 1
    for i, fact in enumerate(inputs):
        name, variable, allowed = signature.inputs[min(i, last)]
        dtype = fact.dtype
        assert dtype is not None, "checked by the caller"
        if dtype not in allowed:
            raise Inconsistent(f"{node.op_type} is refused: its input {name} cannot be {dtype.name.lower()}")
        if bound.setdefault(variable, dtype) != dtype:
            raise Inconsistent(
                f"{node.op_type} is refused: its inputs are {bound[variable].name.lower()} and {dtype.name.lower()}"
            )
    return signature.output if isinstance(signature.output, oir.DataType) else bound[signature.output]


# -- operators with one output, of the dtype of their first input: None where the full inference may object -----------


def _typed(
    node: oir.Node, version: int, inputs: list[Fact], site: Site, shaped: Callable[[Site], Shape | None]
) -> list[Fact] | None:
    signature = _signature(node.op_type, version)
    if signature is None or len(node.outputs) != 1 or not 1 <= len(inputs) <= len(signature.inputs):
        return None
    bound: dict[str, oir.DataType] = {}
    for fact, (_, variable, allowed) in zip(inputs, signature.inputs, strict=False):
        if fact.dtype not in allowed or bound.setdefault(variable, fact.dtype) != fact.dtype:
            return None
    shape = shaped(site)
    return None if shape is None else [Fact(inputs[0].dtype, shape)]


def _matmul(site: Site) -> Shape | None:
    a, b = site.shape(0), site.shape(1)
    if a is None or b is None or len(a) < 2 or len(b) < 2 or a[-1] is None or a[-1] != b[-2]:
        return None
    try:
        outer = broadcast([a[:-2], b[:-2]])
    except ValueError:
        return None
    return None if None in outer else (*outer, a[-2], b[-1])


def _transpose(site: Site) -> Shape | None:
    shape = site.shape(0)
    if shape is None:
        return None
    perm = site.attr("perm", range(len(shape))[::-1])
    return tuple([shape[axis] for axis in perm]) if sorted(perm) == list(range(len(shape))) else None


def _normalized(site: Site) -> Shape | None:
    shape = site.shape(0)
    return shape if shape is not None and -len(shape) <= site.attr("axis", -1) < len(shape) else None


def _reshape(site: Site) -> Shape | None:
    wanted = site.elements(1)
    if site.inputs != 2 or wanted is None:
        return None
    found = next(iter(shapes.refine("Reshape", site)), None)
    if found is None or any(type(size) is not int for size in wanted):
        return found  # of sizes that are no numbers nobody else knows more
    old = site.shape(0)
    if None in found or wanted.count(-1) > 1 or (0 in wanted and not _copies(site, old, wanted)):
        return None
    if static(old) is None and 0 not in wanted and -1 not in wanted:
        return found
    try:
        same = old is not None and 0 not in old and product(known(old) or (0,)) == product(known(found) or ())
    except OverflowError:
        return None
    return found if same else None


def _copies(site: Site, old: Shape | None, wanted: tuple[int | Dim, ...]) -> bool:
    """Whether each 0 among the sizes that are wanted stands for one that there is."""
    if old is None or site.attr("allowzero", 0):
        return False
    return all(size != 0 or axis < len(old) for axis, size in enumerate(wanted))


_SHAPED: dict[str, Callable[[Site], Shape | None]] = {
    "LayerNormalization": _normalized, "MatMul": _matmul, "Reshape": _reshape, "Transpose": _transpose,
}  # fmt: skip
