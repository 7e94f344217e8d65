"""Shapes of results where sizes are symbols and onnx's own inference gives up: exact, or not at all.

Each function gets a `Site` and returns the shape of the first output (or of all of them). A result must hold
for all sizes from 0 on, given that the operator succeeds; what is not provable is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir import spatial
from graphopt.ir.dims import Dim, Shape, at_least, at_most, broadcast, exact_quotient, known, product
from graphopt.ir.site import Site, Size, axis_of

_FAR = 2**31 - 1  # beyond every size
_FAR_FOR_SYMBOL = 10**9  # what some exporters write for the end of an axis


Rule = Callable[[Site], Sequence[Shape | None]]


def refine(op: str, site: Site) -> Sequence[Shape | None]:
    """The shapes of the outputs of a standard operator, as far as this module knows it."""
    rule = RULES.get(op)
    try:
        return rule(site) if rule else ()
    except (OverflowError, IndexError):
        return ()


def _same(site: Site) -> Sequence[Shape | None]:
    return [site.shape(0)]


def _elementwise(site: Site) -> Sequence[Shape | None]:
    shapes = [site.shape(i) for i in range(site.inputs)]
    if any(s is None for s in shapes):
        return ()
    try:
        return [broadcast([s for s in shapes if s is not None])]
    except ValueError:
        return ()


def _reshape(site: Site) -> Sequence[Shape | None]:
    shape, wanted = site.shape(0), site.elements(1)
    if wanted is None:
        return ()
    if any(isinstance(size, int) and size < -1 for size in wanted):
        return ()
    copies = not site.attr("allowzero", 0)
    result: list[Size] = []
    inferred = -1
    for i, size in enumerate(wanted):
        old = shape[i] if shape is not None and i < len(shape) else None
        if isinstance(size, int) and size == -1:
            inferred = i
            result.append(None)
        elif isinstance(size, int):
            result.append(old if size == 0 and copies else size)
        else:
            # A size that turns out to be 0 copies the old one instead, which is the same only if that is 0 too. There
            # is none to copy behind the operand's last axis: that would be an error.
            beyond = copies and shape is not None and i >= len(shape)
            stays = at_least(size, 1) or (at_least(size, 0) and (not copies or _vanishes_with(old, size)))
            stays = stays or (at_least(size, 0) and (beyond or _is_checked(site, i - len(wanted), old, size)))
            result.append(size if stays else None)
    total = known(shape)
    if total is None or result.count(None) != 1:
        return [tuple(result)]
    at = result.index(None)
    others = product([size for size in result if size is not None])
    # With -1 the others cannot be 0: the operator fails then, and with allowzero the model is not valid, although ONNX
    # Runtime takes it, and leaves sizes of 0 out on both sides. Without -1 it must be known.
    if (at == inferred and (copies or _are_among(result, total))) or at_least(others, 1):
        quotient = exact_quotient(product(total), others)
        if quotient is None and isinstance(others, int) and others > 0:
            quotient = product(total) // others
        result[at] = quotient
    return [tuple(result)]


def _are_among(wanted: Sequence[Size], sizes: Sequence[int | Dim]) -> bool:
    """Whether each symbolic size that is wanted is one of the sizes, as often at least."""
    symbols = [size for size in wanted if isinstance(size, Dim)]
    return all(symbols.count(size) <= list(sizes).count(size) for size in symbols)


def _vanishes_with(size: Size, cause: Dim) -> bool:
    """Whether `size` is 0 whenever `cause` is."""
    if size is None:
        return False
    if size == 0 or exact_quotient(size, cause) is not None:
        return True
    quotient = exact_quotient(cause, size)
    return isinstance(quotient, int) and quotient != 0


def _is_checked(site: Site, axis: int, copied: Size, size: Dim) -> bool:
    """Whether the model fails where `size` is 0 and an axis, counted from the end, is `copied` instead.

    It does if somebody adds it to a tensor of that size: 2 or more does not broadcast with 0.
    """
    if not isinstance(copied, int) or copied < 2:
        return False
    return any(len(shape) >= -axis and shape[axis] == size for shape in site.partners())


def _flatten(site: Site) -> Sequence[Shape | None]:
    shape = known(site.shape(0))
    if shape is None:
        return ()
    axis = site.attr("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return [(product(shape[:axis]), product(shape[axis:]))]


def _expand(site: Site) -> Sequence[Shape | None]:
    shape, wanted = site.shape(0), site.elements(1)
    if shape is None or wanted is None:
        return ()
    try:
        return [broadcast([shape, wanted])]
    except ValueError:
        return ()


def _constant_of_shape(site: Site) -> Sequence[Shape | None]:
    return [site.elements(0)]


def _tile(site: Site) -> Sequence[Shape | None]:
    shape, repeats = site.shape(0), site.elements(1)
    if shape is None or repeats is None or len(shape) != len(repeats):
        return ()
    return [tuple(None if n is None else n * r for n, r in zip(shape, repeats, strict=True))]


def _range(site: Site) -> Sequence[Shape | None]:
    ends = [site.elements(i) for i in range(3)]
    if any(e is None or len(e) != 1 for e in ends):
        return ()
    start, limit, step = (e[0] for e in ends if e is not None)
    if not isinstance(step, int) or step == 0:
        return ()
    span = (limit - start) if step > 0 else (start - limit)
    if not at_least(span, 0):
        return [(0,)] if at_most(span, 0) else ()
    step = abs(step)
    return [((span + (step - 1)) // step,)]


def _concat(site: Site) -> Sequence[Shape | None]:
    shapes = [s for s in map(site.shape, range(site.inputs)) if s is not None]
    if not shapes:
        return ()
    axis = axis_of(site.attr("axis", 1), len(shapes[0]))
    if len({len(s) for s in shapes}) != 1:
        return ()
    result = [_agreed([s[i] for s in shapes]) for i in range(len(shapes[0]))]
    along = [s[axis] for s in shapes]
    total: int | Dim = 0
    for size in along:
        total = total + (0 if size is None else size)
    result[axis] = None if None in along or len(shapes) < site.inputs else total
    return [tuple(result)]


def _agreed(sizes: Sequence[Size]) -> Size:
    """The one size of sizes that must be equal: a number if there is one."""
    numbers = [s for s in sizes if isinstance(s, int)]
    return numbers[0] if numbers else next((s for s in sizes if s is not None), None)


def _slice(site: Site) -> Sequence[Shape | None]:
    shape = site.shape(0)
    if shape is None:
        return ()
    if site.version < 10:
        starts, ends, axes, steps = site.attr("starts"), site.attr("ends"), site.attr("axes"), None
    else:
        starts, ends, axes, steps = (site.elements(i) for i in range(1, 5))
        if (axes is None and site.given(3)) or (steps is None and site.given(4)):
            return ()
    if starts is None or ends is None:
        return ()
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return ()
    result = list(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(axis, int):
            return ()
        at = axis_of(axis, len(shape))
        result[at] = _sliced(start, end, step, shape[at])
    return [tuple(result)]


def _sliced(start: int | Dim, end: int | Dim, step: int | Dim, size: Size) -> Size:
    if size is None or not isinstance(step, int) or step == 0:
        return None
    if step < 0:
        whole = step == -1 and isinstance(start, int) and isinstance(end, int)
        return size if whole and (start == -1 or start >= _FAR) and end <= -_FAR else None  # type: ignore[operator]
    first, last = _clamped(start, size), _clamped(end, size)
    if first is None or last is None:
        return None
    if at_most(last, first):
        return 0
    if not at_most(first, last):
        return None
    return (last - first + (step - 1)) // step


def _clamped(position: int | Dim, size: int | Dim) -> int | Dim | None:
    """A start or end of Slice, counted from the front and held within 0 and `size`."""
    if isinstance(position, int):
        if position >= (_FAR_FOR_SYMBOL if isinstance(size, Dim) and size.is_symbol else _FAR):
            return size
        if position <= -_FAR:
            return 0
    if not at_least(position, 0):
        if not at_most(position, -1):
            return None
        position = position + size
    if at_most(position, 0):
        return 0
    if at_most(size, position):
        return size
    return position if at_least(position, 0) and at_most(position, size) else None


def _pad(site: Site) -> Sequence[Shape | None]:
    shape = site.shape(0)
    pads = site.attr("pads") if site.version < 11 else site.elements(1)
    axes = site.elements(3)
    if shape is None or pads is None or (axes is None and site.given(3)):
        return ()
    axes = tuple(range(len(shape))) if axes is None else axes
    if len(pads) != 2 * len(axes):
        return ()
    result = list(shape)
    for i, axis in enumerate(axes):
        if not isinstance(axis, int):
            return ()
        at = axis_of(axis, len(shape))
        size = result[at]
        result[at] = None if size is None else size + pads[i] + pads[i + len(axes)]
    return [tuple(result)]


def _split(site: Site) -> Sequence[Shape | None]:
    shape = site.shape(0)
    if shape is None:
        return ()
    axis = axis_of(site.attr("axis", 0), len(shape))
    sizes: Sequence[Size] | None = site.attr("split") if site.version < 13 else site.elements(1)
    if sizes is None:
        total = shape[axis]
        if site.given(1) or not isinstance(total, Dim):
            return ()
        part = exact_quotient(total, site.outputs)
        if part is None and site.version < 18:
            part = total // site.outputs
        sizes = [part] * site.outputs
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _gather(site: Site) -> Sequence[Shape | None]:
    shape, indices = site.shape(0), site.shape(1)
    if shape is None or indices is None:
        return ()
    axis = axis_of(site.attr("axis", 0), len(shape))
    return [(*shape[:axis], *indices, *shape[axis + 1 :])]


def _matmul(site: Site) -> Sequence[Shape | None]:
    a, b = site.shape(0), site.shape(1)
    return () if a is None or b is None else matrix_product(a, b)


def matrix_product(a: Shape, b: Shape) -> Sequence[Shape]:
    """The shape of a matrix product, as NumPy's matmul has it; nothing where the operands do not fit."""
    if not a or not b:
        return ()
    try:
        outer = broadcast([a[:-2], b[:-2]])
    except ValueError:
        return ()
    return [(*outer, *a[:-1][-1:], *(b[-1:] if len(b) > 1 else ()))]


_SAME = (
    "Abs", "Acos", "Asin", "Atan", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Cos", "CumSum",
    "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "GroupNormalization", "HardSigmoid",
    "HardSwish", "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization",
    "LeakyRelu", "Log", "LogSoftmax", "Mish", "Neg", "Not", "QuantizeLinear", "RMSNormalization", "Reciprocal",
    "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan",
    "Tanh", "ThresholdedRelu", "Trilu",
)
BROADCASTING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(BROADCASTING, _elementwise),
    "Attention": spatial.attention,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Tile": _tile,
    "Range": _range,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
    "Split": _split,
    "Gather": _gather,
    "MatMul": _matmul,
    "Resize": spatial.resize,
    "Upsample": spatial.resize,
    "Conv": spatial.conv,
    "ConvTranspose": spatial.conv_transpose,
    "MaxPool": spatial.pool,
    "AveragePool": spatial.pool,
}
