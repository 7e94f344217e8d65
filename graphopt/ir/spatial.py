"""Shapes of convolution, pooling, resizing and attention where sizes are symbols."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dims import Dim, Shape, at_least, exact_quotient
from graphopt.ir.site import Site, Size, axis_of


def resize(site: Site) -> Sequence[Shape | None]:
    shape = site.shape(0)
    if shape is None:
        return ()
    axes = [axis_of(axis, len(shape)) for axis in site.attr("axes") or range(len(shape))]
    scales = site.array(1 if site.version < 11 else 2)
    result = list(shape)
    if scales is not None and scales.size == len(axes):
        if site.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
            return ()
        for axis, scale in zip(axes, scales.tolist(), strict=True):
            result[axis] = _scaled(shape[axis], scale)
        return [tuple(result)]
    sizes = site.elements(3)
    if sizes is None or len(sizes) != len(axes) or site.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return ()
    for axis, size in zip(axes, sizes, strict=True):
        result[axis] = size
    return [tuple(result)]


def _scaled(size: Size, scale: float) -> Size:
    """floor(size × scale), for scales with which that product does not round."""
    numerator, denominator = scale.as_integer_ratio()
    if not isinstance(size, Dim) or not 0 < numerator <= 1024 or denominator > 1024:
        return None
    return size * numerator // denominator


def _window(site: Site, kernel: Sequence[Size], channels: Size, *, pools: bool) -> Sequence[Shape | None]:
    """Convolution and pooling: each spatial size is floor((size + padding − window) / stride) + 1.

    Where the window does not fit even once, convolutions fail, but pooling operators of some runtimes round
    toward zero and give 1: then nothing is claimed but that equal inputs have equal results.
    """
    shape = site.shape(0)
    if shape is None or len(shape) != len(kernel) + 2:
        return ()
    count = len(kernel)
    strides = site.attr("strides") or [1] * count
    dilations = site.attr("dilations") or [1] * count
    pads = site.attr("pads") or [0] * (2 * count)
    auto = site.attr("auto_pad", "NOTSET")
    result: list[Size] = [shape[0], channels]
    for i, (size, window) in enumerate(zip(shape[2:], kernel, strict=True)):
        if not isinstance(size, Dim) or not isinstance(window, int):
            result.append(None)  # numbers are what onnx's own inference is good at
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            result.append((size + (strides[i] - 1)) // strides[i])
        else:
            room = (0 if auto == "VALID" else pads[i] + pads[i + count]) - (window - 1) * dilations[i] - 1
            if pools and strides[i] > 1 and not at_least(size + room, 0):
                result.append(Dim.derived("pooled", size, room, strides[i]))
            else:
                result.append((size + room) // strides[i] + 1)
    return [tuple(result)]


def conv(site: Site) -> Sequence[Shape | None]:
    weight = site.shape(1)
    return () if weight is None else _window(site, weight[2:], weight[0], pools=False)


def conv_transpose(site: Site) -> Sequence[Shape | None]:
    """Each spatial size is stride × (size − 1) + output padding + window − padding."""
    shape, weight = site.shape(0), site.shape(1)
    if shape is None or weight is None or len(shape) != len(weight) or site.attr("output_shape"):
        return ()
    count = len(weight) - 2
    strides = site.attr("strides") or [1] * count
    dilations = site.attr("dilations") or [1] * count
    pads = site.attr("pads") or [0] * (2 * count)
    extra = site.attr("output_padding") or [0] * count
    if site.attr("auto_pad", "NOTSET") != "NOTSET":
        return ()
    channels = weight[1]
    result: list[Size] = [shape[0], None if channels is None else channels * site.attr("group", 1)]
    for i, (size, window) in enumerate(zip(shape[2:], weight[2:], strict=True)):
        known_window = isinstance(size, Dim) and isinstance(window, int)
        added = (window - 1) * dilations[i] + 1 - pads[i] - pads[i + count] if isinstance(window, int) else 0
        result.append((size - 1) * strides[i] + extra[i] + added if known_window else None)  # type: ignore[operator]
    return [tuple(result)]


def pool(site: Site) -> Sequence[Shape | None]:
    shape, kernel = site.shape(0), site.attr("kernel_shape")
    if kernel is None or shape is None or len(shape) != len(kernel) + 2:
        return ()
    if site.attr("ceil_mode", 0):
        found = _rounded_up(site, shape, kernel)
    else:
        found = _window(site, kernel, shape[1], pools=True)
    return [*found, *found] if site.outputs > 1 else found


def _rounded_up(site: Site, shape: Shape, kernel: Sequence[int]) -> Sequence[Shape | None]:
    """Pooling that rounds up: nothing is claimed where the last window would start in the padding behind."""
    count = len(kernel)
    if site.attr("auto_pad", "NOTSET") != "NOTSET":
        return ()
    strides = site.attr("strides") or [1] * count
    dilations = site.attr("dilations") or [1] * count
    pads = site.attr("pads") or [0] * (2 * count)
    result: list[Size] = [*shape[:2]]
    for i, (size, window) in enumerate(zip(shape[2:], kernel, strict=True)):
        steps = None
        if isinstance(size, int):
            steps = -(-(size + pads[i] + pads[i + count] - (window - 1) * dilations[i] - 1) // strides[i])
        fits = steps is not None and isinstance(size, int) and 0 <= steps * strides[i] < size + pads[i]
        result.append(steps + 1 if steps is not None and fits else None)
    return [tuple(result)]


def attention(site: Site) -> Sequence[Shape | None]:
    """The result, the keys and values for the next call, and the scores; see Attention in ONNX's opset 23."""
    q, k, v = (site.shape(i) for i in range(3))
    if q is None or k is None or v is None or not len(q) == len(k) == len(v):
        return ()
    heads, kv_heads = site.attr("q_num_heads"), site.attr("kv_num_heads")
    if len(q) == 4:
        heads, kv_heads, key_size, value_size = q[1], k[1], k[3], v[3]
        result: Shape = (q[0], heads, q[2], value_size)
    elif len(q) == 3 and heads and kv_heads:
        key_size, value_size = _quotient(k[2], kv_heads), _quotient(v[2], kv_heads)
        result = (q[0], q[1], None if value_size is None else value_size * heads)
    else:
        return ()
    total = k[-2]
    if site.given(4):
        past = site.shape(4)
        total = None if past is None or past[2] is None or total is None else past[2] + total
    return [
        result,
        (q[0], kv_heads, total, key_size),
        (q[0], kv_heads, total, value_size),
        (q[0], heads, q[-2], total),
    ]


def _quotient(size: Size, divisor: int) -> Size:
    return None if size is None else exact_quotient(size, divisor)
