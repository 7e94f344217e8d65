"""Matrix products, attention, recurrent operators, and norms over the last axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import eq

import numpy as np

from graphopt.check.call import Call
from graphopt.check.choose import Rejected
from graphopt.check.operators.axes import signed
from graphopt.check.sizes import Shape, broadcast
from graphopt.check.values import Want


def matmul(call: Call) -> Shape | None:
    """Of matrices, of batches of them that broadcast, and of vectors; which factor is there first decides."""
    at = 3 if call.op == "QLinearMatMul" else 1
    if call.is_open(0) and not call.is_open(at):
        right = call.put(at, Want(shape=_matrix(call))).shape
        wish = _left_of(call, right)
        left = call.put(0, Want(shape=wish, strict=True, fits=lambda s: _product(s, right) is not None)).shape
    else:
        left = call.put(0, Want(shape=_matrix(call))).shape
        wish = _right_of(call, left)
        right = call.put(at, Want(shape=wish, strict=True, fits=lambda s: _product(left, s) is not None)).shape
    found = _product(left, right)
    if found is None:
        raise Rejected("the matrices do not fit")
    if call.op != "MatMul":
        parameters(call)
    return found


def parameters(call: Call) -> None:
    """Scales and zero points, for the tensor as a whole, of an operator on quantized operands."""
    assert call.schema is not None
    for index in range(call.count):
        name = call.schema.inputs[index].name
        if call.has(index) and call.values[index] is None and ("scale" in name or "zero_point" in name):
            call.put(index, Want(shape=(), strict=True, kind="positive" if "scale" in name else "natural"))


def _matrix(call: Call) -> Shape:
    if call.want is not None and len(call.want) >= 2:
        return (*call.want[:-1], call.sizes.fresh())
    rank = call.rng.choice((1, 2, 2, 2, 3, 3, 4))
    return call.sizes.shape(rank)


def _right_of(call: Call, left: Shape) -> Shape:
    if not left:
        raise Rejected("MatMul of a scalar")
    inner = left[-1]
    columns = call.want[-1] if call.want is not None and len(call.want) >= 2 else call.sizes.fresh()
    kind = call.rng.random()
    if kind < 0.12:
        return (inner,)
    if kind < 0.5 or len(left) < 3:
        return (inner, columns)
    lead = left[:-2] if kind < 0.85 else tuple(1 for _ in left[:-2])
    return (*lead, inner, columns)


def _left_of(call: Call, right: Shape) -> Shape:
    if not right:
        raise Rejected("MatMul of a scalar")
    inner = right[-2] if len(right) > 1 else right[0]
    rows = call.want[-2] if call.want is not None and len(call.want) >= 2 else call.sizes.fresh()
    if call.rng.random() < 0.1:
        return (inner,)
    lead = right[:-2] if call.rng.random() < 0.7 else ()
    if not lead and call.rng.random() < 0.3:
        lead = (call.sizes.fresh(),)
    return (*lead, rows, inner)


def _product(a: Shape, b: Shape) -> Shape | None:
    """The shape of a product of matrices; None if they do not fit."""
    if not a or not b:
        return None
    first = (1, *a) if len(a) == 1 else a
    then = (*b, 1) if len(b) == 1 else b
    lead = broadcast(first[:-2], then[:-2])
    if first[-1] != then[-2] or lead is None:
        return None
    return (*lead, *((first[-2],) if len(a) > 1 else ()), *((then[-1],) if len(b) > 1 else ()))


def gemm(call: Call) -> Shape:
    """Both factors may be transposed, the product and the bias scaled; a bias of any shape that broadcasts into it."""
    rng, sizes = call.rng, call.sizes
    flips = call.attr("transA", lambda: 1, usual=0.35), call.attr("transB", lambda: 1, usual=0.35)
    call.attr("alpha", lambda: rng.choice((0.5, 2.0, -1.5)), usual=0.3)
    call.attr("beta", lambda: rng.choice((0.5, 2.0, 0.0)), usual=0.3)
    wish = call.want if call.want is not None and len(call.want) == 2 else sizes.shape(2)
    if call.is_open(0) and not call.is_open(1):
        b = _as_matrix(call.put(1, Want(shape=sizes.shape(2))).shape, flips[1])
        want = Want(_as_matrix((wish[0], b[0]), flips[0]), strict=True, fits=lambda s: _inner(s, flips[0], 1) == b[0])
        a = _as_matrix(call.put(0, want).shape, flips[0])
    else:
        a = _as_matrix(call.put(0, Want(_as_matrix((wish[0], sizes.fresh()), flips[0]))).shape, flips[0])
        want = Want(_as_matrix((a[1], wish[1]), flips[1]), strict=True, fits=lambda s: _inner(s, flips[1], 0) == a[1])
        b = _as_matrix(call.put(1, want).shape, flips[1])
    found = (a[0], b[1])
    if call.has(2):
        forms: list[Shape] = [(), (1,), (b[1],), (b[1],), (b[1],), (1, b[1]), (a[0], 1), found, (1, 1)]
        bias = rng.choice(forms) if rng.random() < 0.7 else (b[1],)
        call.put(2, Want(shape=bias, strict=True, fits=lambda s: len(s) <= 2 and broadcast(s, found) == found))
    return found


def _as_matrix(shape: Shape, flip: object) -> Shape:
    if len(shape) != 2:
        raise Rejected("Gemm takes matrices")
    return shape[::-1] if flip else shape


def _inner(shape: Shape, flip: object, axis: int) -> int | None:
    return None if len(shape) != 2 else shape[1 - axis if flip else axis]


def einsum(call: Call) -> None:
    """Operands with the axes that the equation names."""
    equation = call.foresee("equation")
    if not isinstance(equation, str) or "." in equation:
        raise Rejected("the equation of Einsum is not known")
    letters: dict[str, int] = {}
    for index, term in enumerate(equation.split("->")[0].split(",")):
        axes = term.strip()
        shape = tuple(letters[a] if a in letters else letters.setdefault(a, call.sizes.fresh()) for a in axes)

        def fits(s: Shape, axes: str = axes) -> bool:
            return len(s) == len(axes) and all(letters.get(a, z) == z for a, z in zip(axes, s, strict=True))

        found = call.put(index, Want(shape=shape, strict=call.is_open(index), fits=fits)).shape
        letters.update(zip(axes, found, strict=False))


def attention(call: Call) -> None:
    """Queries, keys and values with heads as an axis of their own; a mask of the scores' last two axes."""
    rng, sizes = call.rng, call.sizes
    batch, heads, width = sizes.fresh(), sizes.fresh(), sizes.fresh()
    q = call.put(0, Want(shape=(batch, heads, sizes.fresh(), width))).shape
    if len(q) not in (3, 4):
        raise Rejected("Attention of operands with neither three nor four axes")
    if len(q) == 3:
        call.attr("q_num_heads", lambda: 1, usual=1.0)
        call.attr("kv_num_heads", lambda: 1, usual=1.0)
    lead = q[:-2]
    known = None if call.is_open(1) else call.put(1, Want(shape=(*lead, sizes.fresh(), q[-1]))).shape
    shape = (*lead, sizes.fresh(), q[-1])
    k = known or call.put(1, Want(shape=shape, strict=True, fits=lambda s: len(s) == len(q) and s[-1] == q[-1])).shape
    v = call.put(2, Want(shape=(*k[:-1], width), strict=call.is_open(2), fits=lambda s: s[:-1] == k[:-1])).shape
    if call.has(3):
        scores: Shape = (*lead, q[-2], k[-2])
        forms: list[Shape] = [scores[-2:], (*(1 for _ in lead), *scores[-2:]), scores]
        call.put(3, Want(shape=rng.choice(forms), strict=True, fits=lambda s: broadcast(s, scores) == scores))
    if k[-1] != q[-1] or v[-2] != k[-2] or not len(q) == len(k) == len(v) or k[0] != q[0] or v[0] != k[0]:
        raise Rejected("queries, keys and values do not fit")
    if len(q) == 4 and (v[1] != k[1] or k[1] == 0 or q[1] % k[1]):
        raise Rejected("queries, keys and values have numbers of heads that do not fit")
    call.attr("scale", lambda: rng.choice((0.5, 0.25, 1.0)), usual=0.5)
    call.attr("is_causal", lambda: 1, usual=0.25)
    call.attr("softcap", lambda: 2.0, usual=0.1)
    call.attr("qk_matmul_output_mode", lambda: 0, usual=0.1)
    call.attr("softmax_precision", lambda: None)


def layer_norm(call: Call) -> Shape | None:
    """LayerNormalization and RMSNormalization: scale and bias of the axes that are normalized, or of the last."""
    rng = call.rng
    x = call.put_data(1)
    axis = call.attr("axis", lambda: signed(call, rng.randrange(len(x)), len(x)), usual=0.4)
    axis = axis if axis is not None and -len(x) <= axis < len(x) else -1
    own = x[axis % len(x) :]

    def fits(s: Shape) -> bool:
        return broadcast(s, x) == x and len(s) <= len(own)

    for index in range(1, call.count):
        if call.has(index):
            shape: Shape = own if rng.random() < 0.85 else own[-1:]
            fill = float(2 - index) if rng.random() < 0.3 else None  # a scale or bias that does nothing
            call.put(index, Want(shape=shape, strict=True, fits=fits, fill=fill))
    call.attr("epsilon", lambda: rng.choice((1e-3, 0.1)), usual=0.5)
    call.attr("stash_type", lambda: 1, usual=0.2)
    return x if call.outputs == 1 else None


def recurrent(call: Call) -> None:
    """LSTM, GRU and RNN in one direction."""
    sizes = call.sizes
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[call.op]
    x = call.put(0, Want(shape=(sizes.fresh(), sizes.fresh(), sizes.fresh()))).shape
    if len(x) != 3:
        raise Rejected(f"{call.op} takes three axes")
    hidden = call.attr("hidden_size", lambda: 3, usual=1.0) or 3
    steps, batch, width = (int(s) for s in x)
    shapes: dict[int, Shape] = {
        1: (1, gates * hidden, width), 2: (1, gates * hidden, hidden), 3: (1, 2 * gates * hidden),
        5: (1, batch, hidden), 6: (1, batch, hidden), 7: (1, 3 * hidden),
    }  # fmt: skip
    for index in range(1, call.count):
        if not call.has(index):
            continue
        if index == 4:
            call.put(4, Want(content=np.full((batch,), steps, np.int32)))
        else:
            call.put(index, Want(shape=shapes[index], strict=True, fits=partial(eq, shapes[index])))
    call.attr("direction", lambda: "forward")
    call.attr("layout", lambda: 0)


PLANS: dict[str, Callable[[Call], Shape | None]] = {
    "MatMul": matmul, "MatMulInteger": matmul,
    "QLinearMatMul": matmul, "Einsum": einsum, "Gemm": gemm, "Attention": attention, "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm, "LSTM": recurrent, "GRU": recurrent, "RNN": recurrent,
}  # fmt: skip
