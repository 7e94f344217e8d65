"""A dtype for every value of a tree: the type variables of the operators' schemas, unified over the tree."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from graphopt.check.choose import Leaf, Number, Operand, Port, Rejected, Step, Tree
from graphopt.check.opsets import Schema, schema_at, version_of
from graphopt.rules.expr import AttrVar

Types = Mapping[Operand, int]

_WEIGHTS = {
    TensorProto.FLOAT: 50, TensorProto.FLOAT16: 9, TensorProto.DOUBLE: 8, TensorProto.BFLOAT16: 5,
    TensorProto.INT64: 8, TensorProto.INT32: 7, TensorProto.INT8: 4, TensorProto.UINT8: 4, TensorProto.BOOL: 4,
    TensorProto.INT16: 1, TensorProto.UINT16: 1, TensorProto.UINT32: 1, TensorProto.UINT64: 1,
}  # fmt: skip
_EVERY = frozenset(_WEIGHTS)
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
_SAME = 0.75  # that a value whose dtype is free has the dtype of the others
_NAMED = {
    "i8": TensorProto.INT8, "u8": TensorProto.UINT8, "i16": TensorProto.INT16, "u16": TensorProto.UINT16,
    "i32": TensorProto.INT32, "u32": TensorProto.UINT32, "i64": TensorProto.INT64, "u64": TensorProto.UINT64,
    "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "f32": TensorProto.FLOAT, "f64": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
}  # fmt: skip
# The output has the dtype that this attribute says; without it, that of the first input, or float32.
BY_ATTRIBUTE = {
    "Cast": "to", "EyeLike": "dtype", "RandomNormalLike": "dtype", "RandomUniformLike": "dtype", "Bernoulli": "dtype",
    "RandomNormal": "dtype", "RandomUniform": "dtype", "Multinomial": "dtype",
}  # fmt: skip
_INDICES = frozenset({TensorProto.INT32, TensorProto.INT64})
_LONG = 0.85  # of indices have 64 bits
_FOLLOW = 0.85  # share of samples that have the dtypes that a rule hints at
_ALIKE = {"Attention": 3, "QuantizeLinear": 2}  # how many operands
_DIVIDING = ("Div", "Mod")


def named(hint: str) -> int | None:
    """The dtype that a hint such as `i8:N C` names."""
    return _NAMED.get(hint.split(":", 1)[0].lstrip("+")) if ":" in hint else None


def numpy_dtype(dtype: int) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(dtype)


def assign(
    tree: Tree, rng: Random, hints: Mapping[str, str], declared: Mapping[str, Any], wanted: int | None
) -> dict[Operand, int]:
    """A dtype for each operand of the tree. Raises `Rejected` if some operand has no possible one.

    `hints`: the rule's shapes, which may name a dtype; `declared`: its values for captured attributes;
    `wanted`: the dtype to prefer, instead of a random one.
    """
    classes = _Classes()
    follow = wanted is None and rng.random() < _FOLLOW
    for step in tree.steps:
        _add(classes, step, tree.opset, declared if follow else {})
    for leaf in tree.leaves:
        known = named(hints.get(leaf.label, ""))
        if known is not None and (follow or known not in _WEIGHTS):
            classes.restrict(leaf, {known})
    return classes.solve(rng, wanted)


class _Classes:
    """Sets of operands and type variables that have one dtype, each with the dtypes that it may have."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}
        self._allowed: dict[Any, frozenset[int]] = {}

    def restrict(self, key: Any, allowed: Iterable[int]) -> None:
        root = self._root(key)
        self._allowed[root] &= frozenset(allowed)

    def join(self, a: Any, b: Any) -> None:
        first, second = self._root(a), self._root(b)
        if first != second:
            self._parent[second] = first
            self._allowed[first] &= self._allowed.pop(second)

    def _root(self, key: Any) -> Any:
        if key not in self._parent:
            self._parent[key] = key
            self._allowed[key] = _EVERY
        while self._parent[key] != key:
            key = self._parent[key]
        return key

    def solve(self, rng: Random, wanted: int | None) -> dict[Operand, int]:
        if not all(self._allowed.values()):
            raise Rejected("no dtype suits all operators")
        every = frozenset().union(*self._allowed.values())
        main = wanted if wanted is not None else _weighted(every, rng)
        drawn: dict[Any, int] = {}
        for root, allowed in self._allowed.items():
            keep = main in allowed and (wanted is not None or rng.random() < _SAME)
            drawn[root] = main if keep else _weighted(allowed, rng)
            if allowed == _INDICES and rng.random() < _LONG:
                drawn[root] = TensorProto.INT64
        return {key: drawn[self._root(key)] for key in self._parent if isinstance(key, Leaf | Number | Port)}


def _weighted(allowed: Iterable[int], rng: Random) -> int:
    known = [d for d in _WEIGHTS if d in set(allowed)]
    return rng.choices(known, [_WEIGHTS[d] for d in known])[0]


def _add(classes: _Classes, step: Step, opset: int, declared: Mapping[str, Any]) -> None:
    schema = schema_at(step.domain, step.op, version_of(step.domain, opset))
    for index, operand in enumerate(step.operands):
        if operand is None:
            continue
        key, allowed = _formal(step, schema, index, "inputs")
        classes.join(key, operand)
        classes.restrict(key, allowed)
        if isinstance(operand, Number):
            classes.restrict(operand, _holding(operand.content))
        if index == 1 and step.op in _DIVIDING and not _is_safe_divisor(operand):
            classes.restrict(operand, FLOATS)
    for index in range(step.outputs):
        key, allowed = _formal(step, schema, index, "outputs")
        classes.join(key, Port(step, index))
        classes.restrict(key, allowed)
    if step.domain == "":
        _add_special(classes, step, declared)


def _is_safe_divisor(operand: Operand) -> bool:
    """Whether integers can be divided by it: 0, and -1 beside the smallest integer, end the process."""
    return isinstance(operand, Leaf) or (isinstance(operand, Number) and not np.isin(operand.content, (0, -1)).any())


def _formal(step: Step, schema: Schema | None, index: int, side: str) -> tuple[Any, frozenset[int]]:
    """The type variable of an input or output, and the dtypes that it may have."""
    if schema is None:
        return (step, "T"), _EVERY  # nothing is known of the operator: all its tensors are of one dtype
    formal = getattr(schema, side)
    if not formal:
        raise Rejected(f"{step.op} has no {side}")
    mine = formal[min(index, len(formal) - 1)]
    types = frozenset(filter(None, map(_tensor_type, mine.types)))
    variable = mine.type_str
    if variable not in _variables(schema) or not mine.is_homogeneous:
        return (step, side, index), types
    return (step, variable), types


@functools.cache
def _tensor_type(text: str) -> int:
    """`tensor(float)` as the number of the dtype; 0 for what is no tensor."""
    name = text.removeprefix("tensor(").removesuffix(")")
    return TensorProto.DataType.Value(name.upper()) if text.startswith("tensor(") else 0


@functools.cache
def _variables(schema: Schema) -> frozenset[str]:
    return frozenset(c.type_param_str for c in schema.type_constraints)


def _holding(content: Any) -> frozenset[int]:
    """The dtypes in which a number of a rule can be written."""
    array = np.asarray(content)
    if array.dtype.kind == "b":
        return frozenset({TensorProto.BOOL})
    if isinstance(content, np.ndarray):
        return frozenset({helper.np_dtype_to_tensor_dtype(array.dtype)})
    if array.size and not np.all(np.isfinite(array) & (array == np.trunc(array))):
        return FLOATS
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    integers = (d for d in _EVERY - FLOATS - {TensorProto.BOOL} if _fits(d, low, high))
    return FLOATS.union(integers)


def _fits(dtype: int, low: int, high: int) -> bool:
    limits = np.iinfo(numpy_dtype(dtype))
    return int(limits.min) <= low and high <= int(limits.max)


def _add_special(classes: _Classes, step: Step, declared: Mapping[str, Any]) -> None:
    """What a schema does not say of dtypes: attributes that name one, and what an operand that is left out means."""
    out = Port(step, 0)
    name = BY_ATTRIBUTE.get(step.op)
    if name is not None:
        given = step.attrs.get(name)
        if isinstance(given, int):
            classes.restrict(out, {given})
        elif isinstance(given, AttrVar):
            classes.join(out, ("attribute", step.captures[name]))
            hint = declared.get(given.label)
            if hint is not None:
                classes.restrict(out, set(hint) if isinstance(hint, list | tuple) else {hint})
        elif given is None and not step.more and step.op.endswith("Like") and step.operands[0] is not None:
            classes.join(out, step.operands[0])
    if step.op == "Mod" and "fmod" not in step.attrs and not step.more:
        classes.restrict(out, _EVERY - FLOATS)
    if step.op in _ALIKE:  # the runtime has kernels for operands of one dtype only
        first, *others = (o for o in step.operands[: _ALIKE[step.op]] if o is not None)
        classes.restrict(first, FLOATS)
        for other in others:
            classes.join(first, other)
    if step.op == "RMSNormalization":  # onnx infers the dtype of the operand, where the standard has that of the scale
        classes.join(step.operands[0], out)
    if step.op == "QuantizeLinear" and (len(step.operands) < 3 or step.operands[2] is None):
        classes.restrict(out, {TensorProto.UINT8})


@functools.cache
def takes(op: str, opset: int, dtype: int) -> bool:
    """Whether a standard operator takes and gives tensors of this dtype."""
    schema = schema_at("", op, opset)
    sides = () if schema is None else (*schema.inputs[:1], *schema.outputs[:1])
    if op in ("If", "Loop", "Constant"):
        sides = sides[-1:]
    return bool(sides) and all(dtype in map(_tensor_type, side.types) for side in sides)
