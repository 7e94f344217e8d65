"""Kernels of operators that move elements and never compute with them.

They take arrays of any dtype, so the same code moves numbers and symbolic integers (arrays of objects).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from graphopt.ir.kernel import Array, Call, Undefined, Unsupported

Kernel = Callable[[Call], tuple[Array, ...]]
INT64 = np.dtype(np.int64)


def identity(call: Call) -> tuple[Array, ...]:
    return (call.input(0),)


def reshape(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    wanted = [int(n) for n in call.input(1).reshape(-1)]
    if not call.attrs.get("allowzero", 0):
        if any(n == 0 and i >= x.ndim for i, n in enumerate(wanted)):
            raise Undefined("Reshape copies a size from an axis that the input does not have")
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    elif 0 in wanted and -1 in wanted:
        raise Undefined("Reshape with allowzero has both 0 and -1")
    if -1 in wanted:
        others = math.prod(n for n in wanted if n != -1)
        if wanted.count(-1) > 1 or others <= 0 or x.size % others:
            raise Undefined(f"Reshape cannot make {wanted} of {list(x.shape)}")
        wanted[wanted.index(-1)] = x.size // others
    if any(n < 0 for n in wanted) or math.prod(wanted) != x.size:
        raise Undefined(f"Reshape cannot make {wanted} of {list(x.shape)}")
    return (x.reshape(call.allocate(wanted, x.dtype)),)


def flatten(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    axis = int(call.attrs.get("axis", 1))
    if not -x.ndim <= axis <= x.ndim:
        raise Undefined(f"Flatten has axis {axis}, but the rank is {x.ndim}")
    axis += x.ndim if axis < 0 else 0
    return (x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])),)


def transpose(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    perm = call.attrs.get("perm")
    if perm is None:
        return (x.transpose(),)
    if sorted(perm) != list(range(x.ndim)):
        raise Undefined(f"Transpose has perm {list(perm)}, but the rank is {x.ndim}")
    return (x.transpose([int(i) for i in perm]),)


def squeeze(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    axes = call.ints(1, "axes", 13)
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else call.axes(axes, x.ndim)
    if any(x.shape[i] != 1 for i in axes):
        raise Undefined(f"Squeeze of axes {axes} of {list(x.shape)}, which are not all 1")
    return (x.reshape([n for i, n in enumerate(x.shape) if i not in axes]),)


def unsqueeze(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    axes = call.ints(1, "axes", 13)
    if axes is None:
        raise Undefined("Unsqueeze without axes")
    rank = x.ndim + len(axes)
    new = set(call.axes(axes, rank))
    old = iter(x.shape)
    return (x.reshape(call.allocate([1 if i in new else next(old) for i in range(rank)], x.dtype)),)


def concat(call: Call) -> tuple[Array, ...]:
    arrays = [call.input(i) for i in range(len(call.inputs))]
    first = arrays[0]
    axis = call.axis(int(call.attrs["axis"]) if "axis" in call.attrs else 1, first.ndim)
    for x in arrays:
        if x.ndim != first.ndim or any(
            a != b for i, (a, b) in enumerate(zip(x.shape, first.shape, strict=True)) if i != axis
        ):
            raise Undefined(f"Concat of {list(first.shape)} and {list(x.shape)} along axis {axis}")
    shape = list(first.shape)
    if not shape:
        raise Undefined("Concat of scalars")
    shape[axis] = sum(x.shape[axis] for x in arrays)
    call.allocate(shape, first.dtype)
    return (np.concatenate(arrays, axis=axis),)


def split(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    axis = call.axis(int(call.attrs.get("axis", 0)), x.ndim)
    sizes = call.ints(1, "split", 13)
    if sizes is None:
        sizes = split_sizes(x.shape[axis], int(call.attrs.get("num_outputs", 0)), call.n_outputs, call.version)
    if sum(sizes) != x.shape[axis] or any(n < 0 for n in sizes) or len(sizes) != call.n_outputs:
        raise Undefined(f"Split of {x.shape[axis]} into {sizes} for {call.n_outputs} outputs")
    ends = np.cumsum([0, *sizes]).tolist()
    take = [slice(None)] * x.ndim
    parts = []
    for begin, end in pairwise(ends):
        take[axis] = slice(begin, end)
        parts.append(x[tuple(take)])
    return tuple(parts)


def split_sizes(size: int, num_outputs: int, outputs: int, version: int) -> list[int]:
    """The sizes of the parts where Split does not list them; the last one is smaller from opset 18 on."""
    if version < 18 or not num_outputs:
        if size % outputs:
            raise Undefined(f"Split of {size} into {outputs} equal parts")
        return [size // outputs] * outputs
    part = -(-size // num_outputs)
    return [min(part, max(0, size - i * part)) for i in range(num_outputs)]


def gather(call: Call) -> tuple[Array, ...]:
    x, indices = call.input(0), call.input(1)
    if not x.ndim:
        raise Undefined("Gather from a scalar")
    axis = call.axis(int(call.attrs.get("axis", 0)), x.ndim)
    size = x.shape[axis]
    if indices.size and not (-size <= int(indices.min()) and int(indices.max()) < size):
        raise Undefined(f"Gather has an index out of range, the axis has {size} elements")
    call.allocate([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]], x.dtype)
    return (np.asarray(np.take(x, np.asarray(indices, INT64), axis=axis), x.dtype),)


def slice_(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    starts, ends = call.ints(1, "starts", 10), call.ints(2, "ends", 10)
    axes = call.ints(3, "axes", 10)
    steps = call.ints(4, "steps", 10) if call.version >= 10 else None
    if starts is None or ends is None:
        raise Undefined("Slice without starts or ends")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    axes = call.axes(axes, x.ndim)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Undefined("Slice has starts, ends, axes and steps that do not fit together")
    if any(step < 0 and end >= 2**31 - 1 for end, step in zip(ends, steps, strict=True)):
        raise Undefined("Slice backwards to the largest integer, which runtimes understand in two ways")
    take = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        take[axis] = slice(*clamped(start, end, step, x.shape[axis]))
    return (x[tuple(take)],)


def clamped(start: int, end: int, step: int, size: int) -> tuple[int, int | None, int]:
    """Python's slice for ONNX's start and end: negative ones count from the back, and all are clamped."""
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size), step
    start, end = max(0, min(start, size - 1)), max(-1, min(end, size - 1))
    return start, None if end < 0 else end, step


def expand(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    shape = [int(n) for n in call.input(1).reshape(-1)]
    return (np.broadcast_to(x, call.allocate(broadcast_shape(call, [x.shape, tuple(shape)]), x.dtype)),)


def broadcast_shape(call: Call, shapes: list[tuple[int, ...]]) -> list[int]:
    """The multidirectional broadcast of shapes. Raises `Undefined` if they do not go together."""
    rank = max(map(len, shapes))
    result = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if size != 1 and result[i] not in (1, size):
                raise Undefined(f"{call.op} cannot broadcast {' with '.join(str(list(s)) for s in shapes)}")
            result[i] = size if size != 1 else result[i]
    return result


def tile(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    repeats = [int(n) for n in call.input(1).reshape(-1)]
    if len(repeats) != x.ndim:
        raise Undefined(f"Tile has {len(repeats)} repeats, but the rank is {x.ndim}")
    call.allocate([n * r for n, r in zip(x.shape, repeats, strict=True)], x.dtype)
    return (np.tile(x, repeats),)


def pad(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    if call.attrs.get("mode", "constant") != "constant":
        raise Unsupported(f"Pad in mode {call.attrs['mode']}")
    pads = call.ints(1, "pads", 11)
    axes = call.ints(3, "", 18) if call.version >= 18 else None
    axes = list(range(x.ndim)) if axes is None else call.axes(axes, x.ndim)
    if pads is None or len(pads) != 2 * len(axes):
        raise Undefined(f"Pad has pads {pads} for {len(axes)} axes")
    value = np.asarray(call.attrs.get("value", 0.0)) if call.version < 11 else call.optional(2)
    begin, end = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(axes):
        begin[axis], end[axis] = pads[i], pads[i + len(axes)]
    if any(min(b, e) < -n for n, b, e in zip(x.shape, begin, end, strict=True)):
        raise Undefined(f"Pad removes more than there is of {list(x.shape)}")
    shape = call.allocate([n + b + e for n, b, e in zip(x.shape, begin, end, strict=True)], x.dtype)
    if value is not None and value.size != 1:
        raise Undefined("Pad with a constant that is no single value")
    result = np.full(shape, 0 if value is None else value.reshape(()), x.dtype)
    inner = tuple(slice(max(b, 0), n + b + min(e, 0)) for n, b, e in zip(x.shape, begin, end, strict=True))
    kept = tuple(slice(max(-b, 0), n + min(e, 0)) for n, b, e in zip(x.shape, begin, end, strict=True))
    result[inner] = x[kept]
    return (result,)


def shape(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    start, end = int(call.attrs.get("start", 0)), call.attrs.get("end")
    return (np.asarray(x.shape[slice(*shape_bounds(start, end, x.ndim))], INT64),)


def shape_bounds(start: int, end: int | None, rank: int) -> tuple[int, int]:
    """The part of a shape that Shape returns: negative ones count from the back, and both are clamped."""
    end = rank if end is None else int(end)
    first = min(max(start + rank if start < 0 else start, 0), rank)
    return first, max(first, min(max(end + rank if end < 0 else end, 0), rank))


def size(call: Call) -> tuple[Array, ...]:
    return (np.asarray(call.input(0).size, INT64),)


def constant_of_shape(call: Call) -> tuple[Array, ...]:
    value = call.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
    if fill.size != 1:
        raise Undefined("ConstantOfShape with a value that is no single element")
    shape = call.allocate([int(n) for n in call.input(0).reshape(-1)], fill.dtype)
    return (np.full(shape, fill.reshape(()), fill.dtype),)


def where(call: Call) -> tuple[Array, ...]:
    condition, x, y = call.input(0), call.input(1), call.input(2)
    if x.dtype != y.dtype:
        raise Undefined(f"Where chooses between {x.dtype} and {y.dtype}")
    shape = call.allocate(broadcast_shape(call, [condition.shape, x.shape, y.shape]), x.dtype)
    result = np.empty(shape, x.dtype)
    np.copyto(result, y)
    np.copyto(result, x, where=np.broadcast_to(condition, shape))
    return (result,)


MOVEMENT: dict[str, Kernel] = {
    "Identity": identity,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Gather": gather,
    "Slice": slice_,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
    "Where": where,
}
"""Where every element of a result is an element of the first input (or of both branches of Where)."""

SHAPE_ONLY: dict[str, Kernel] = {"Shape": shape, "Size": size, "ConstantOfShape": constant_of_shape}
