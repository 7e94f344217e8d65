"""Operators that slide a window or change resolution: convolutions, pools, Resize, and norms over channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.check.call import Call
from graphopt.check.choose import Rejected
from graphopt.check.contents import Kind
from graphopt.check.operators.products import parameters
from graphopt.check.sizes import Shape
from graphopt.check.values import Want

_SPATIAL = (1, 2, 2, 2, 2, 3)


def _image(call: Call) -> Shape:
    """The data operand, with batch, channels and at least one spatial axis, or as many as attributes speak of."""
    sizes, spatial, group = call.sizes, _spatial(call), call.foresee("group") or 1
    if call.want is not None and len(call.want) >= 3 and spatial in (None, len(call.want) - 2):
        wish = call.want
    else:
        channels = call.rng.choice((2, 4, 4, 6)) if group == 1 else group * call.rng.choice((1, 2))
        rank = call.rng.choice(_SPATIAL) if spatial is None else spatial
        room = max(call.foresee("kernel_shape") or (0,))
        wish = (sizes.fresh(), sizes.named(channels, "channels"), *(_side(call, room) for _ in range(rank)))
    x = call.put(0, Want(shape=wish)).shape
    if len(x) < 3 or spatial not in (None, len(x) - 2):
        raise Rejected(f"{call.op} needs other spatial axes")
    return x


def _spatial(call: Call) -> int | None:
    """The number of spatial axes that attributes of the pattern speak of; None if they do not."""
    for name, each in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 2)):
        given = call.foresee(name)
        if given:
            return len(given) // each
    return None


def _side(call: Call, room: int) -> int:
    size = call.sizes.fresh(spatial=True)
    return size if size >= room else call.sizes.named(room + 1, "side")


def conv(call: Call) -> None:
    """Convolutions of any rank; groups, strides, dilations and padding where the pattern leaves them open."""
    rng = call.rng
    at = 3 if call.op == "QLinearConv" else 1
    known = None if call.is_open(at) else call.put(at, Want(shape=call.sizes.shape(4))).shape
    x = _image(call) if known is None else call.put(0, Want(shape=_fitting(call, known))).shape
    spatial = len(x) - 2
    if spatial < 1:
        raise Rejected(f"{call.op} needs spatial axes")
    channels = int(x[1])
    divisors = [d for d in (2, 3, 4, 5, channels) if d > 1 and channels % d == 0]
    group = call.attr("group", lambda: rng.choice(divisors or [1]), usual=0.35) or 1
    transposed = call.op == "ConvTranspose"
    kernel = call.foresee("kernel_shape") or [rng.choice((1, 2, 3, 3)) for _ in range(spatial)]
    out = group * rng.choice((1, 2, 3))
    shape = (channels, out // group, *kernel) if transposed else (out, channels // group, *kernel)

    def fits(s: Shape) -> bool:
        if len(s) != len(x) or 0 in s:
            return False
        return s[0] == channels if transposed else s[1] * group == channels and s[0] % group == 0

    w = call.put(at, Want(shape=shape, strict=True, fits=fits)).shape
    if len(w) != len(x):
        raise Rejected(f"the weights of {call.op} have another rank")
    _window(call, [int(s) for s in x[2:]], [int(s) for s in w[2:]], transposed)
    if call.op in ("QLinearConv", "ConvInteger"):
        parameters(call)
    bias = 8 if call.op == "QLinearConv" else 2
    if call.has(bias) and call.values[bias] is None:
        count = int(w[1]) * group if transposed else int(w[0])
        call.put(bias, Want(shape=(count,), strict=True, fits=lambda s: s == (count,)))
    if transposed:
        call.attr("output_padding", lambda: [0] * spatial, usual=0.1)


def _fitting(call: Call, w: Shape) -> Shape:
    return (call.sizes.fresh(), w[0] if call.op == "ConvTranspose" else w[1],
            *(call.sizes.fresh(spatial=True) for _ in w[2:]))


def _window(
    call: Call, sizes: list[int], kernel: list[int], transposed: bool = False, calm: bool = False
) -> None:
    """Strides, dilations and padding of a window, so that it fits into the operand; `calm`: seldom unusual ones."""
    rng, spatial = call.rng, len(kernel)
    if spatial != len(sizes):
        raise Rejected(f"the window of {call.op} has another rank")
    much = 0.3 if calm else 1.0
    call.attr("kernel_shape", lambda: kernel, usual=0.5)
    roomy = all(s >= 2 * (k - 1) + 1 for s, k in zip(sizes, kernel, strict=True))
    dilations = [2 if roomy and rng.random() < 0.6 else 1 for _ in kernel]
    found = call.attr("dilations", lambda: dilations, usual=0.3 * much) or [1] * spatial
    call.attr("strides", lambda: [rng.choice((1, 2)) for _ in kernel], usual=0.4 * much)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, found, strict=False)]
    fits = all(s >= r for s, r in zip(sizes, reach, strict=False)) or transposed
    same = ("SAME_UPPER", "SAME_LOWER") if max(found) == 1 else ()  # with dilations the runtimes refuse them
    automatic = (*same, "VALID") if fits else same or ("NOTSET",)
    auto = call.attr("auto_pad", lambda: rng.choice(automatic), usual=0.1 * much if fits else 0.9)
    if auto in (None, "NOTSET"):
        most = [min(1, r - 1) if transposed else r - 1 for r in reach]
        call.attr("pads", lambda: [rng.randint(0, min(2, m)) for m in (*most, *most)], usual=0.4 * much)


def pool(call: Call) -> None:
    """Windows of any size, more often of one element."""
    rng = call.rng
    x = _image(call)
    sizes = [int(s) for s in x[2:]]
    kernel = [1] * len(sizes) if rng.random() < 0.45 else [rng.randint(1, min(3, max(1, s))) for s in sizes]
    given = call.attr("kernel_shape", lambda: kernel)
    call.attr("ceil_mode", lambda: 1, usual=0.2)
    call.attr("count_include_pad", lambda: 1, usual=0.2)
    if call.op == "LpPool":
        call.attr("p", lambda: rng.choice((1, 2)))
    _window(call, sizes, list(given or kernel), calm=max(kernel, default=1) == 1)


def global_pool(call: Call) -> Shape:
    x = _image(call)
    return (*x[:2], *(1 for _ in x[2:]))


def batch_norm(call: Call) -> Shape | None:
    """Parameters with an element per channel; the variance is positive."""
    wish = call.want if call.want is not None and len(call.want) >= 2 else None
    x = call.put(0, Want(shape=wish if wish is not None else call.sizes.shape(call.rng.choice((2, 3, 4))))).shape
    if len(x) < 2:
        raise Rejected(f"{call.op} needs channels")
    shape = (int(x[1]),)
    for index in range(1, call.count):
        if call.has(index):
            kind: Kind | None = "positive" if index == 4 else None
            call.put(index, Want(shape=shape, strict=True, fits=lambda s: s == shape, kind=kind))
    call.attr("training_mode", lambda: 0)
    return x if call.outputs == 1 else None


def instance_norm(call: Call) -> Shape:
    x = _image(call)
    for index in (1, 2):
        call.put(index, Want(shape=(int(x[1]),), strict=True))
    return x


def group_norm(call: Call) -> None:
    x = _image(call)
    channels = int(x[1])
    groups = call.attr("num_groups", lambda: call.rng.choice([g for g in (1, 2, channels) if g and channels % g == 0]))
    count = groups if call.version < 21 else channels
    for index in (1, 2):
        call.put(index, Want(shape=(count,), strict=True, fits=lambda s: s == (count,)))


def mean_variance(call: Call) -> Shape:
    wish = call.want if call.want is not None and len(call.want) == 4 else call.sizes.shape(4)
    x = call.put(0, Want(shape=wish)).shape
    call.attr("axes", lambda: call.rng.choice(([0, 2, 3], [2, 3], [1])))
    return x


def resize(call: Call) -> None:
    """By scales or to sizes, to the same size more often; in all modes."""
    rng = call.rng
    x = _image(call)
    same = rng.random() < 0.45
    mode = call.attr("mode", lambda: rng.choice(("nearest", "linear")), usual=0.25) or "nearest"
    factors = [1.0 if same or i < 2 else rng.choice((1.0, 2.0, 0.5)) for i in range(len(x))]
    if call.op == "Upsample" or call.version < 11:
        _scales(call, 1, factors)
        call.attr("scales", lambda: factors, usual=1.0)
        return
    call.attr("antialias", lambda: None if mode == "nearest" else 1, usual=0.1)
    call.attr("exclude_outside", lambda: 1 if mode == "cubic" else None, usual=0.1)
    call.attr("coordinate_transformation_mode", lambda: rng.choice(
        ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")), usual=0.4)
    call.attr("nearest_mode", lambda: rng.choice(("floor", "ceil", "round_prefer_ceil")), usual=0.3)
    call.attr("axes", lambda: None)
    call.attr("keep_aspect_ratio_policy", lambda: "stretch", usual=0.1)
    if call.has(1):
        call.put(1, Want(content=np.zeros(2 * len(x) if rng.random() < 0.5 else 0, np.float32)))
    if call.has(3):
        if call.has(2) and not call.leave_out(2):
            call.put(2, Want(content=np.zeros(0, np.float32)))
        sizes = [max(1, int(s * f)) for s, f in zip(x, factors, strict=True)]
        call.put(3, Want(content=np.array(sizes, np.int64)))
    elif call.has(2):
        _scales(call, 2, factors)


def _scales(call: Call, index: int, factors: list[float]) -> None:
    if call.has(index):
        call.put(index, Want(content=np.array(factors, np.float32)))


PLANS: dict[str, Callable[[Call], Shape | None]] = {
    "Conv": conv, "ConvTranspose": conv, "ConvInteger": conv, "AveragePool": pool, "MaxPool": pool, "LpPool": pool,
    "GlobalAveragePool": global_pool, "GlobalMaxPool": global_pool, "GlobalLpPool": global_pool,
    "BatchNormalization": batch_norm, "InstanceNormalization": instance_norm, "GroupNormalization": group_norm,
    "Resize": resize, "Upsample": resize, "QLinearConv": conv, "MeanVarianceNormalization": mean_variance,
}  # fmt: skip
