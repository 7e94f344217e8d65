"""Ways to make an example smaller, each a generator of candidates; whether one still fails is for others to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.check.finding import Example
from graphopt.runtime.arrays import numpy_dtype

__all__ = ["REDUCTIONS"]

Array = np.ndarray[Any, Any]
Candidates = Iterator[Example]


def fewer_outputs(example: Example) -> Candidates:
    """One graph output less."""
    for i in range(len(example.model.graph.output) if len(example.model.graph.output) > 1 else 0):
        model = _copy(example.model)
        del model.graph.output[i]
        yield _pruned(model, example.feeds)


def earlier_outputs(example: Example) -> Candidates:
    """What the last operator reads is the output, instead of what it makes."""
    types = _types(example.model)
    outputs = {o.name for o in example.model.graph.output}
    for i, output in enumerate(example.model.graph.output):
        for node in example.model.graph.node:
            if output.name not in node.output:
                continue
            for name in node.input:
                if name in types and name not in outputs and _is_made(example.model, name):
                    model = _copy(example.model)
                    model.graph.output[i].CopyFrom(types[name])
                    yield _pruned(model, example.feeds)


def later_inputs(example: Example) -> Candidates:
    """What an operator makes is an input instead, fed with plain numbers."""
    types = _types(example.model)
    sizes = _sizes(example)
    outputs = {o.name for o in example.model.graph.output}
    for i, node in enumerate(example.model.graph.node):
        made = {name: _plain(types[name], sizes) for name in node.output if name in types}
        if len(made) < sum(map(bool, node.output)) or outputs & set(made) or any(v is None for v in made.values()):
            continue
        model = _copy(example.model)
        del model.graph.node[i]
        model.graph.input.extend(types[name] for name in made)
        feeds = example.feeds | {name: value for name, value in made.items() if value is not None}
        yield _pruned(model, feeds)


def static_dims(example: Example) -> Candidates:
    """Every symbolic dim has the size that is fed."""
    sizes = _sizes(example)
    model = _copy(example.model)
    changed = False
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
                changed = True
    if changed:
        yield Example(model, example.feeds)


def initializers(example: Example) -> Candidates:
    """Constants that are nodes are initializers."""
    model = _copy(example.model)
    constants = [n for n in model.graph.node if n.op_type == "Constant"]
    tensors = {n.output[0]: a.t for n in constants for a in n.attribute if a.HasField("t")}
    if tensors:
        for name, tensor in tensors.items():
            tensor.name = name
            model.graph.initializer.append(tensor)
        kept = [_copied(n) for n in model.graph.node if n.output[0] not in tensors]
        del model.graph.node[:]
        model.graph.node.extend(kept)
        yield Example(model, example.feeds)


def smaller_sizes(example: Example) -> Candidates:
    """All axes of one size are shorter, in inputs and constants alike."""
    arrays = [*example.feeds.values(), *map(numpy_helper.to_array, example.model.graph.initializer)]
    found = sorted({size for array in arrays for size in array.shape if size > 1}, reverse=True)
    for size in found:
        for less in range(1, min(size, 4)):
            yield _resized(example, size, slice(0, less))
            yield _resized(example, size, slice(size - less, size))


def no_attributes(example: Example) -> Candidates:
    """One attribute has its default."""
    for i, node in enumerate(example.model.graph.node):
        for j in range(len(node.attribute)):
            model = _copy(example.model)
            del model.graph.node[i].attribute[j]
            yield Example(model, example.feeds)


def plain_feeds(example: Example) -> Candidates:
    """An input holds simpler numbers."""
    for name, array in example.feeds.items():
        for simple in _simpler(array):
            yield Example(example.model, example.feeds | {name: simple})


def plain_constants(example: Example) -> Candidates:
    """A constant holds simpler numbers."""
    for i, initializer in enumerate(example.model.graph.initializer):
        for simple in _simpler(numpy_helper.to_array(initializer)):
            model = _copy(example.model)
            model.graph.initializer[i].CopyFrom(_tensor(simple, initializer))
            yield Example(model, example.feeds)


REDUCTIONS = (
    fewer_outputs, static_dims, initializers, later_inputs, earlier_outputs, smaller_sizes, no_attributes, plain_feeds,
    plain_constants,
)  # fmt: skip
"""From those that take away most to those that take away least."""


# -- models ---------------------------------------------------------------------------------------


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """The tensors of the main graph whose type is known, by name."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception:  # of many kinds; a smaller example is looked for with fewer types then
        inferred = model
    graph = inferred.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: v for v in values if v.type.tensor_type.HasField("shape")}


def _is_made(model: onnx.ModelProto, name: str) -> bool:
    return any(name in node.output for node in model.graph.node)


def _sizes(example: Example) -> dict[str, int]:
    """What each symbolic dim is in this example."""
    found: dict[str, int] = {}
    for value in example.model.graph.input:
        if value.name in example.feeds:
            dims = value.type.tensor_type.shape.dim
            sizes = example.feeds[value.name].shape
            found.update({d.dim_param: s for d, s in zip(dims, sizes, strict=False) if d.dim_param})
    return found


def _pruned(model: onnx.ModelProto, feeds: dict[str, Array]) -> Example:
    """Without what no output needs."""
    graph = model.graph
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(_reads(node))
    nodes = [_copied(node) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    for field in (graph.input, graph.initializer, graph.sparse_initializer):
        for i in reversed(range(len(field))):
            if getattr(field[i], "name", None) not in needed:
                del field[i]
    del graph.value_info[:]
    inputs = {value.name for value in graph.input}
    return Example(model, {name: array for name, array in feeds.items() if name in inputs})


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node and its bodies refer to."""
    found = set(node.input)
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            found.update(name for inner in body.node for name in _reads(inner))
            found.update(o.name for o in body.output)
    return found


def _resized(example: Example, size: int, kept: slice) -> Example:
    model = _copy(example.model)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == size:
                dim.dim_value = kept.stop - kept.start
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if size in array.shape:
            initializer.CopyFrom(_tensor(_cut(array, size, kept), initializer))
    _infer_outputs(model)
    return Example(model, {name: _cut(array, size, kept) for name, array in example.feeds.items()})


def _infer_outputs(model: onnx.ModelProto) -> None:
    """Give the outputs the shapes that follow from the inputs, where those can be inferred."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    types = _types(model)
    for output in model.graph.output:
        if output.name in types:
            output.CopyFrom(types[output.name])


def _cut(array: Array, size: int, kept: slice) -> Array:
    part = array[tuple(kept if s == size else slice(s) for s in array.shape)]
    return np.ascontiguousarray(part).reshape(part.shape)


# -- numbers --------------------------------------------------------------------------------------


def _tensor(array: Array, like: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.TensorProto(
        name=like.name, data_type=like.data_type, dims=array.shape, raw_data=np.ascontiguousarray(array).tobytes()
    )


def _plain(value: onnx.ValueInfoProto, sizes: dict[str, int]) -> Array | None:
    """Numbers of both signs in the shape of a value; None if a size is not known."""
    tensor = value.type.tensor_type
    shape = [sizes.get(d.dim_param) if d.dim_param else d.dim_value for d in tensor.shape.dim]
    if None in shape or tensor.elem_type == onnx.TensorProto.STRING:
        return None
    dtype = numpy_dtype(tensor.elem_type)
    rng = np.random.default_rng(0)
    known = [s for s in shape if s is not None]
    if _is_float(dtype):
        return (rng.standard_normal(known) * 2).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 4, known).astype(dtype)


def _simpler(array: Array) -> Iterator[Array]:
    """Plainer numbers of the same kind, the plainest first; nothing if they are plain enough."""
    if array.size == 0 or array.dtype.kind in "OSU":
        return
    seen = {array.tobytes()}
    ramp = np.arange(1, array.size + 1, dtype=np.float64).reshape(array.shape)
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        candidates = [np.zeros(array.shape), np.ones(array.shape)]
        if _is_signed(array):
            candidates += [np.full(array.shape, -1.0), np.full(array.shape, 2.0), np.where(ramp % 2, ramp, -ramp)]
        elif array.dtype.kind != "b":
            candidates += [np.full(array.shape, 2.0), ramp]
        if _is_float(array.dtype):
            candidates += [np.where(np.isfinite(wide), np.round(wide), wide), np.where(np.isfinite(wide), wide, 1.0)]
            candidates += [np.where(np.isfinite(wide) & (np.abs(wide) < 1e6), np.round(wide, 1), wide)]
        for candidate in candidates:
            made = candidate.astype(array.dtype)
            if made.tobytes() in seen:
                if made.tobytes() == array.tobytes():
                    return
                continue
            seen.add(made.tobytes())
            yield made


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def _is_signed(array: Array) -> bool:
    return array.dtype.kind == "i" or _is_float(array.dtype)
