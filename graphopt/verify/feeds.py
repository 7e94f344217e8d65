"""Inputs made up for a model from the names, dtypes and shapes of its inputs, and from what consumes them.

Good enough to drive every layer with ordinary values: ids within their embedding, masks of ones, positions in
order, lengths that fit, images with the statistics of photographs. Not good enough to calibrate on.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from graphopt.errors import DataError
from graphopt.runtime.arrays import numpy_dtype
from graphopt.runtime.package import Port, ports_of
from graphopt.verify.dims import PLANS, Plan, concrete, elements, image_axes, is_state
from graphopt.verify.natural import photograph

__all__ = ["index_range", "plans", "synthesize"]

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

_HINT = "give inputs with --data"
_BIG = 100_000  # elements of all inputs together
_MOST_ELEMENTS = 1 << 27
_PERIOD = (1 << 20) - 3  # noise repeats after so many elements; a prime, so no axis repeats along with it
_SHAPE_ONLY = {
    "Cast",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    "Slice",
    "Expand",
    "Tile",
}
_MASK = re.compile(r"mask|valid|keep", re.IGNORECASE)
_ZEROS = re.compile(r"token_type|segment|offset|start|cache_position", re.IGNORECASE)
_POSITION = re.compile(r"pos(ition)?(_?ids?|s)?$|position", re.IGNORECASE)
_LENGTH = re.compile(r"len(gth)?s?$|_len_|num_(tokens|frames)", re.IGNORECASE)
_RATE = re.compile(r"^(sr|fs)$|sampl(e|ing)_?rate", re.IGNORECASE)
_NEUTRAL = re.compile(r"temperature|penalty|^top_?p$", re.IGNORECASE)
_LEAST = re.compile(r"^(min|num)_|^top_?k$", re.IGNORECASE)
_MOST = re.compile(r"^max_", re.IGNORECASE)
_SOUND = re.compile(r"audio|wav|pcm|speech|signal", re.IGNORECASE)


class Shapes(Protocol):
    """Inferred facts, as far as they are used here."""

    def shape(self, value: ir.Value, /) -> tuple[Any, ...] | None: ...


def plans(model: ir.Model) -> tuple[Plan, ...]:
    """The plans worth trying, each of which leads to other inputs; big inputs do not come in batches."""
    ports = ports_of(model)
    found: dict[tuple[Any, ...], Plan] = {}
    for plan in PLANS:
        if plan.batch > 1 and elements(ports, plan) > _BIG:
            plan = replace(plan, batch=1)
        guessed = plan.cautious and any(_is_integer(port.dtype) for port in ports)
        found.setdefault((tuple(concrete(ports, plan).items()), guessed), plan)
    return tuple(found.values())


def synthesize(
    model: ir.Model, facts: Shapes | None = None, *, seed: int = 0, plan: Plan | None = None
) -> dict[str, Array]:
    """One sample: an array for each input that has no default. Raises DataError when one cannot be made up.

    Without a plan, the first. The same model, plan and seed give the same sample, in any order of inputs.
    """
    plan = plan or plans(model)[0]
    ports = ports_of(model)
    for port in ports:
        _require_possible(port)
    count = elements(ports, plan)
    if count > _MOST_ELEMENTS:
        raise DataError(f"the inputs have {count} elements together: too many to make up", hint=_HINT)
    shapes = concrete(ports, plan)
    values = {value.name: value for value in model.graph.inputs}
    return {port.name: _make(values[port.name], port, shapes[port.name], facts, seed, plan) for port in ports}


def index_range(value: ir.Value, facts: Shapes | None = None) -> int | None:
    """How many entries the table has that `value` indexes (its embedding), if it indexes one."""
    sizes = [size for size in _tables(value, facts) if size is not None and size > 0]
    return min(sizes, default=None)


def _make(value: ir.Value, port: Port, shape: tuple[int, ...], facts: Shapes | None, seed: int, plan: Plan) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(port.name.encode())])
    assert port.dtype is not None
    dtype = numpy_dtype(port.dtype)
    if dtype.hasobject:
        words = np.array(["a", "quick", "brown", "fox"], dtype=object)
        return np.asarray(words[rng.integers(0, 4, shape)], dtype=object)
    if dtype == np.bool_:
        return np.ones(shape, np.bool_)
    sides = image_axes(port.shape) if port.shape is not None else None
    if dtype.kind in "iu":
        if dtype == np.uint8 and sides is not None:
            return np.asarray(_image(rng, shape, sides) * 50 + 128).clip(0, 255).astype(np.uint8)
        return _integers(value, shape, dtype, facts, rng, plan)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    stored = _stored_range(value)
    if stored is not None:
        noise = _floats("", shape, rng) if sides is None else _image(rng, shape, sides)
        return _within(noise, *stored).astype(dtype)
    if sides is not None:
        return (_image(rng, shape, sides) * _contrast(value) + _brightness(value)).astype(dtype)
    return _floats(port.name, shape, rng).astype(dtype)


def _floats(name: str, shape: tuple[int, ...], rng: Rng) -> Array:
    if _MASK.search(name) or _NEUTRAL.search(name):
        return np.ones(shape)
    count = math.prod(shape)
    noise = np.resize(rng.standard_normal(min(count, _PERIOD), dtype=np.float32), shape)
    if is_state(name) or _SOUND.search(name):
        return noise / 10
    return noise


def _integers(
    value: ir.Value,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    facts: Shapes | None,
    rng: Rng,
    plan: Plan,
) -> Array:
    name = str(value.name)
    if _RATE.search(name):
        return np.full(shape, 16000, dtype)
    if _MASK.search(name) or _LEAST.search(name):
        return np.ones(shape, dtype)
    if _MOST.search(name):
        return np.full(shape, 2 * plan.length, dtype)
    if plan.cautious or _ZEROS.search(name):
        return np.zeros(shape, dtype)
    entries = index_range(value, facts)
    if _POSITION.search(name) and shape:
        order = np.arange(shape[-1]) % (entries or max(shape[-1], 1))
        return np.broadcast_to(order, shape).astype(dtype)
    if entries is None and _LENGTH.search(name):
        return np.full(shape, plan.length, dtype)
    return rng.integers(0, min(entries or 10, np.iinfo(dtype).max), shape).astype(dtype)


def _tables(value: ir.Value, facts: Shapes | None) -> Iterator[int | None]:
    """Table sizes of the lookups that `value` reaches through operators that only move or cast it."""
    todo, seen = [value], {id(value)}
    while todo:
        for node, index in todo.pop().uses():
            table = _table(node, index)
            if table is not None:
                yield _size(table[0], table[1], facts)
            elif node.op_type == "OneHot" and index == 0 and node.inputs[1] is not None:
                depth = node.inputs[1].const_value
                yield int(depth.numpy().reshape(-1)[0]) if depth is not None and depth.size == 1 else None
            elif node.op_type in _SHAPE_ONLY and index == 0:
                fresh = [output for output in node.outputs if id(output) not in seen]
                seen.update(map(id, fresh))
                todo.extend(fresh)


def _table(node: ir.Node, index: int) -> tuple[ir.Value | None, int] | None:
    """The value that input `index` of `node` looks things up in, and the axis."""
    if node.op_type in ("Gather", "GatherElements") and index == 1:
        axis = node.attributes.get("axis")
        return node.inputs[0], 0 if axis is None else axis.as_int()
    if node.op_type == "EmbedLayerNormalization" and index < 2:  # ids and segments; words and segments' table
        return node.inputs[2 + 2 * index], 0
    return None


def _size(table: ir.Value | None, axis: int, facts: Shapes | None) -> int | None:
    if table is None:
        return None
    shape: tuple[Any, ...] | None = None
    if table.const_value is not None:
        shape = tuple(table.const_value.shape.numpy())
    elif table.shape is not None:
        shape = tuple(table.shape)
    elif facts is not None:
        shape = facts.shape(table)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    return shape[axis] if isinstance(shape[axis], int) else None


def _image(rng: Rng, shape: tuple[int, ...], sides: tuple[int, int, int]) -> Array:
    channel, height, width = sides
    images = photograph(rng, shape[0], shape[channel], shape[height], shape[width])
    return images if channel == 1 else images.transpose(0, 2, 3, 1)


def _constants(value: ir.Value, op: str) -> Iterator[float]:
    """Typical magnitudes of the constants that `value` is combined with by `op` right away."""
    for node, index in value.uses():
        if node.op_type == op and len(node.inputs) == 2:
            other = node.inputs[1 - index]
            constant = other.const_value if other is not None else None
            if constant is not None and 0 < constant.size <= 16:
                yield float(np.abs(constant.numpy()).astype(np.float64).mean())


def _takes_bytes(value: ir.Value) -> bool:
    """Whether pixels are 0 to 255: the model itself divides by that, or subtracts a mean of that size."""
    return any(size > 20 for op in ("Div", "Sub") for size in _constants(value, op)) or any(
        size < 0.03 for size in _constants(value, "Mul")
    )


def _contrast(value: ir.Value) -> float:
    if _takes_bytes(value):
        return 50.0
    return 0.25 if any(True for _ in _constants(value, "Sub")) else 1.0


def _brightness(value: ir.Value) -> float:
    if _takes_bytes(value):
        return 128.0
    return 0.5 if any(True for _ in _constants(value, "Sub")) else 0.0


def _stored_range(value: ir.Value) -> tuple[float, float] | None:
    """The numbers that the model can tell apart, if it stores this input in integers: it has seen no others."""
    for node, index in value.uses():
        if node.op_type != "QuantizeLinear" or index or len(node.inputs) < 3:
            continue
        scale, zero = (None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs[1:3])
        if scale is not None and zero is not None and scale.size == zero.size == 1 and zero.dtype.kind in "iu":
            kind = np.iinfo(zero.dtype)
            low, high = ((end - int(zero.item())) * float(scale.item()) for end in (kind.min, kind.max))
            return (low, high) if low < high < math.inf else None
    return None


def _within(noise: Array, low: float, high: float) -> Array:
    """Noise of mean 0 and deviation 1, three deviations to each side of the middle of a range."""
    return np.asarray(np.clip((low + high) / 2 + noise * (high - low) / 6, low, high))


def _is_integer(dtype: int | None) -> bool:
    return dtype is not None and ir.DataType(dtype).is_integer()


def _require_possible(port: Port) -> None:
    if port.dtype is None:
        raise DataError(f"input {port.name!r} is not a tensor: nothing can be made up for it", hint=_HINT)
    kind = ir.DataType(port.dtype)
    if kind == ir.DataType.UNDEFINED:
        raise DataError(f"input {port.name!r} declares no type: nothing can be made up for it", hint=_HINT)
    if kind != ir.DataType.STRING and kind.bitwidth % 8:
        raise DataError(f"input {port.name!r} is {kind.name}, which ONNX Runtime cannot be given", hint=_HINT)
