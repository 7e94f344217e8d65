"""Layers: convolutions, products, norms, pools, and what stands around them."""

from __future__ import annotations

import numpy as np

from tests.fuzz.builder import Builder, Reject
from tests.fuzz.movement import with_axes
from tests.fuzz.values import F32, F64, FLOATS, I8, U8, Val


def _weight(b: Builder, shape: tuple[int, ...], dtype: int) -> Val:
    source = np.random.default_rng(b.rng.getrandbits(32))
    return b.const(source.integers(-3, 4, shape) / b.rng.choice((1.0, 2.0, 4.0)), dtype)


def _image(b: Builder) -> Val:
    if b.rng.random() < 0.6:
        try:
            return b.pick(lambda v: v.rank in (3, 4) and v.size > 0 and v.dims[1] < 9, dtypes=(F32, b.float))
        except Reject:
            pass
    if b.inside:
        raise Reject
    shape = (b.rng.choice((1, 2)), b.rng.choice((1, 2, 3, 4)), 4, *((4,) if b.rng.random() < 0.7 else ()))
    return b.input(shape, b.float if b.float in FLOATS[:3] else F32)


def _affine(b: Builder, x: Val, channel: int) -> Val:
    """An addition or multiplication by a constant that may be one per channel, or look like it."""
    rng, count = b.rng, x.dims[channel]
    full = [1] * x.rank
    full[channel] = count
    shapes = (tuple(full), tuple(full[1:]), (count,), (1,), (), tuple(full[channel:]) if channel >= 0 else (count,))
    pair = [x, _weight(b, rng.choice(shapes), x.dtype)]
    return b.node(rng.choice(("Mul", "Add", "Div", "Sub")), pair if rng.random() < 0.75 else pair[::-1])


def _batch_norm(b: Builder, x: Val) -> Val:
    if x.rank < 2 or x.size == 0:
        raise Reject
    source = np.random.default_rng(b.rng.getrandbits(32))
    least = 0 if b.rng.random() < 0.1 else 1
    given = [b.const(source.integers(low, high, (x.dims[1],)) / 2, x.dtype) for low, high in ((-3, 4),) * 3 + ((least, 6),)]
    return b.node("BatchNormalization", [x, *given], epsilon=b.rng.choice((None, 1e-3, 0.0)))


def batch_norm(b: Builder) -> None:
    _batch_norm(b, b.pick(least=2, dtypes=(F32, F64)))


def conv(b: Builder) -> None:
    rng = b.rng
    x = _image(b)
    if rng.random() < 0.3:
        x = _affine(b, x, 1)
    if rng.random() < 0.15:
        x = _batch_norm(b, x)
    spatial, channels = x.rank - 2, x.dims[1]
    if rng.random() < 0.2 and b.opset >= 11:
        x = b.node("Pad", [x, b.ints(*([0, 0] + [1] * spatial) * 2)])
    for _ in range(rng.choice((1, 1, 1, 2))):
        x = _one_conv(b, x, x.dims[1] if channels else 1)
        for _ in range(rng.choice((0, 1, 1, 2))):
            after = rng.randrange(5)
            x = (
                _batch_norm(b, x) if after == 0 else _affine(b, x, rng.choice((1, 1, 1, -1))) if after < 3
                else b.node(rng.choice(("Relu", "Sigmoid", "LeakyRelu")), [x])
            )  # fmt: skip


def _one_conv(b: Builder, x: Val, channels: int) -> Val:
    rng, spatial = b.rng, x.rank - 2
    size, back = rng.choice((1, 1, 2, 3)), rng.random() < 0.25
    group = rng.choice((1, 1, 1, channels))
    made = channels * rng.choice((1, 2)) if group > 1 else rng.choice((1, 2, 3, 4, channels))
    shape = (channels, made // group) if back else (made, channels // group)
    pads, auto = rng.choice((None, [0] * 2 * spatial, [1] * 2 * spatial)), None
    if rng.random() < 0.15:
        pads, auto = None, rng.choice(("SAME_UPPER", "VALID", "SAME_LOWER"))
    bias = [_weight(b, (made,), x.dtype)] if rng.random() < 0.5 else []
    return b.node(
        "ConvTranspose" if back else "Conv", [x, _weight(b, shape + (size,) * spatial, x.dtype), *bias],
        group=group if group > 1 or rng.random() < 0.5 else None, pads=pads, auto_pad=auto,
        strides=rng.choice((None, None, [1] * spatial, [2] * spatial)),
    )  # fmt: skip


def parallel(b: Builder) -> None:
    """Several layers that read one value."""
    rng = b.rng
    x = _image(b) if rng.random() < 0.4 else b.pick(lambda v: v.size > 0, least=2, dtypes=(F32, F64))
    made = []
    for _ in range(rng.choice((2, 3))):
        if x.rank in (3, 4) and rng.random() < 0.5:
            made.append(_one_conv(b, x, x.dims[1]))
        else:
            made.append(b.node("MatMul", [x, _weight(b, (x.dims[-1], rng.choice((2, 3))), x.dtype)]))
            if rng.random() < 0.5:
                made[-1] = _affine(b, made[-1], -1)
    if len({m.shape for m in made}) == 1 and rng.random() < 0.5:
        b.node(rng.choice(("Sum", "Max")), made)


def product(b: Builder) -> None:
    rng = b.rng
    x = b.pick(lambda v: v.size > 0, least=1, dtypes=(F32, F64))
    if x.rank == 2 and rng.random() < 0.6:
        left, right = rng.choice((0, 0, 1)), rng.choice((0, 1))
        m, k = x.dims[::-1] if left else x.dims
        n = rng.choice((1, 2, 3))
        bias = rng.choice((None, (n,), (1, n), (), (m, 1), (m, n), (1,)) if b.opset >= 11 else ((n,), (1, n), ()))
        more = [] if bias is None else [_weight(b, bias, x.dtype)]
        y = b.node(
            "Gemm", [x, _weight(b, (n, k) if right else (k, n), x.dtype), *more], transA=left or None, transB=right or None,
            alpha=rng.choice((None, None, 2.0, 0.0)), beta=rng.choice((None, None, 0.5, 0.0)),
        )  # fmt: skip
    else:
        k, n = x.dims[-1], rng.choice((1, 2, 3))
        w = _weight(b, rng.choice(((k, n), (k, n), (k,), (2, k, n), (1, k, n))), x.dtype)
        y = b.node("MatMul", [x, w])
    for _ in range(rng.choice((0, 1, 1, 2))):
        if y.rank < 1:
            return
        kind = rng.randrange(4)
        if kind == 3:
            y = b.node("MatMul", [y, _weight(b, (y.dims[-1], 2), y.dtype)])
        else:
            y = _batch_norm(b, y) if kind == 0 and y.rank >= 2 else _affine(b, y, rng.choice((-1, -1, 0)))


def pool(b: Builder) -> None:
    rng = b.rng
    x = _image(b)
    spatial = x.rank - 2
    if rng.random() < 0.3:
        b.node(rng.choice(("GlobalAveragePool", "GlobalMaxPool")), [x])
        return
    op = rng.choice(("MaxPool", "AveragePool", "AveragePool", "LpPool"))
    if rng.random() < 0.3 and b.opset >= 11:
        x = b.node("Pad", [x, b.ints(*([0, 0] + [1] * spatial) * 2), *([] if rng.random() < 0.5 else [b.const(rng.choice((0, -np.inf)), x.dtype)])])
    size = rng.choice((1, 2, 2, 3))
    b.node(
        op, [x], kernel_shape=[size] * spatial, strides=rng.choice((None, [1] * spatial, [2] * spatial)),
        pads=rng.choice((None, [0] * 2 * spatial, [1] * 2 * spatial if size > 1 else None)),
        count_include_pad=rng.choice((None, 1)) if op == "AveragePool" else None,
        ceil_mode=rng.choice((None, None, 1)) if op != "LpPool" and b.opset >= 10 else None,
    )  # fmt: skip


def softmax(b: Builder) -> None:
    rng = b.rng
    x = b.pick(lambda v: v.size > 0, least=1, dtypes=FLOATS[:3])
    axis = rng.choice((None, rng.randrange(x.rank), -1 if b.opset >= 11 else 0))
    y = b.node(rng.choice(("Softmax", "Softmax", "LogSoftmax", "Hardmax")), [x], axis=axis)
    if rng.random() < 0.25:
        b.node(rng.choice(("Log", "Exp")), [y])


def norm(b: Builder) -> None:
    """Layer, RMS or group normalization spelled out, at times not quite."""
    rng = b.rng
    x = b.pick(lambda v: v.size > 0, least=2, dtypes=(F32, F64))
    axes = rng.choice(([x.rank - 1], [x.rank - 1], [-1], [-2, -1], [1])) if b.opset >= 11 else [x.rank - 1]
    keep = rng.choice((1, 1, 1, 0))

    def mean(z: Val) -> Val:
        return with_axes(b, "ReduceMean", z, axes, 18, keepdims=keep)

    centred = x if rng.random() < 0.35 else b.node("Sub", [x, mean(x)])
    exponent = b.const(rng.choice((2.0, 2.0, 2.0, 4.0)), x.dtype)
    square = b.node("Pow", [centred, exponent]) if rng.random() < 0.6 else b.node("Mul", [centred, centred])
    root = b.node("Sqrt", [b.node("Add", [mean(square), b.const(rng.choice((1e-5, 1e-3, 0.1)), x.dtype)])])
    y = b.node("Div", [centred, root]) if rng.random() < 0.7 else b.node("Mul", [centred, b.node("Reciprocal", [root])])
    last = x.dims[-1]
    y = b.node("Mul", [y, _weight(b, rng.choice(((last,), (last,), (1,), x.dims[-2:])), x.dtype)])
    if rng.random() < 0.7:
        b.node("Add", [y, _weight(b, rng.choice(((last,), (last,), x.dims[-2:])), x.dtype)])


def attention(b: Builder) -> None:
    """Scaled products with a softmax between, at times masked."""
    rng = b.rng
    q = b.pick(lambda v: v.size > 0, least=3, dtypes=(F32, F64))
    n = rng.choice((2, 3))
    depth = q.dims[-1]
    k = _weight(b, (*q.dims[:-2], n, depth), q.dtype) if rng.random() < 0.5 or b.inside else b.input((*q.dims[:-2], n, depth), q.dtype)
    v = _weight(b, (*q.dims[:-2], n, depth), q.dtype)
    perm = [*range(q.rank - 2), q.rank - 1, q.rank - 2]
    scores = b.node("MatMul", [q, b.node("Transpose", [k], perm=perm)])
    scale = depth**0.5
    scores = b.node("Div", [scores, b.const(scale, q.dtype)]) if rng.random() < 0.5 else b.node("Mul", [scores, b.const(rng.choice((1 / scale, 0.3)), q.dtype)])
    if rng.random() < 0.5:
        scores = b.node("Add", [scores, _weight(b, rng.choice(((n,), (1, n), (1,) * (q.rank - 1) + (n,))), q.dtype)])
    b.node("MatMul", [b.node("Softmax", [scores], axis=rng.choice((-1, -1, q.rank - 1)) if b.opset >= 13 else q.rank - 1), v])


def quantized(b: Builder) -> None:
    """Quantized and back, once or twice, with one scale or another."""
    rng = b.rng
    x = b.pick(dtypes=(F32,))
    kind = rng.choice((I8, U8))
    scale, zero = b.const(rng.choice((0.5, 0.25)), F32), b.const(rng.choice((0, 3)), kind)
    for _ in range(rng.choice((1, 2))):
        y = b.node("QuantizeLinear", [x, scale, zero])
        if rng.random() < 0.3:
            y = b.node(rng.choice(("Identity", "Flatten")), [y])
        x = b.node("DequantizeLinear", [y, scale, zero])
        if rng.random() < 0.4:
            scale = b.const(rng.choice((0.5, 0.125)), F32)
        if rng.random() < 0.3:
            x = b.node("Relu", [x])


def standard(b: Builder) -> None:
    """Normalizations that are operators."""
    rng = b.rng
    x = b.pick(lambda v: v.size > 0, least=2, dtypes=(F32, F64))
    op = rng.choice(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN", "Dropout", "Resize"))
    last = x.dims[-1]
    if op in ("LayerNormalization", "RMSNormalization"):
        more = [_weight(b, (last,), x.dtype)] if op[0] == "L" and rng.random() < 0.6 else []
        b.node(op, [x, _weight(b, (last,), x.dtype), *more], axis=-1)
    elif op == "InstanceNormalization" and x.rank >= 3:
        b.node(op, [x, *(_weight(b, (x.dims[1],), x.dtype) for _ in range(2))])
    elif op == "GroupNormalization" and x.rank >= 3 and b.opset >= 21:
        b.node(op, [x, *(_weight(b, (x.dims[1],), x.dtype) for _ in range(2))], num_groups=1)
    elif op == "LpNormalization":
        b.node(op, [x], axis=-1, p=rng.choice((1, 2)))
    elif op in ("MeanVarianceNormalization", "LRN") and x.rank == 4:
        b.node(op, [x], **({"size": 3} if op == "LRN" else {"axes": [0, 2, 3]}))
    elif op == "Dropout" and b.opset < 12:
        b.node(op, [x], ratio=0.3)
    elif op == "Dropout":
        ratio, training = b.const(rng.choice((0.0, 0.3)), F32), b.const(False)
        b.nodes_of(op, [x, ratio, *([training] if rng.random() < 0.5 else [])], outputs=rng.choice((1, 1, 2)))
    elif op == "Resize" and b.opset >= 13 and x.rank == 4 and x.dtype == F32:
        scales = b.const(np.array([1, 1, 1, rng.choice((1, 1, 2))]), F32, plain=True)
        b.node(op, [x, None, scales], mode=rng.choice(("nearest", "linear")))
    else:
        raise Reject


GENERATORS = {
    conv: 5, batch_norm: 1, parallel: 2, product: 5, pool: 3, softmax: 2, norm: 2, attention: 2, quantized: 1, standard: 2,
}  # fmt: skip
