"""Section 10: attention, rotary embeddings, relative position bias, with standard operators."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tests.bench.micro.case import Case, left, operators, text

_HEADS = "float[B,3,S,8] q, float[B,3,S,8] k, float[B,3,S,8] v"
_ATTENTION = left(Softmax=0, MatMul=0, Attention=1)
_ROTARY = left(Mul=0, Concat=0, RotaryEmbedding=1)


def _scores(body: str, inputs: str = _HEADS, constants: str = "float c = {0.5}", out: str = "float[B,3,S,8]") -> str:
    return text(f"({inputs}) => ({out} y) <{constants}> {{ {body} }}", opset=23)


def _either(*ways: Callable[[onnx.ModelProto], bool]) -> Callable[[onnx.ModelProto], bool]:
    return lambda model: any(way(model) for way in ways)


def _contrib(name: str) -> Callable[[onnx.ModelProto], bool]:
    return lambda model: operators(model)[name] > 0


_TURN = "t = Transpose<perm = [0,1,3,2]>(k) "
_PRODUCT = _TURN + "s = MatMul(q, t) m = Mul(s, c) "
_END = " w = Softmax<axis = -1>(a) y = MatMul(w, v)"
_ANY = _either(_ATTENTION, _contrib("MultiHeadAttention"), _contrib("Attention"))
_SPLIT = " ".join(f"{x}r = Reshape({x}, split) {x}t = Transpose<perm = [0,2,1,3]>({x}r)" for x in "qkv")
_ANGLES = "aa = Concat<axis = -1>(t, t) c = Cos(aa) cu = Unsqueeze(c, one) n = Sin(aa) nu = Unsqueeze(n, one) "
_HALVES = "l, h = Split<axis = 3, num_outputs = 2>(x) m = Neg(h) r = Concat<axis = -1>(m, l) "
_TURNED = "p = Mul(x, cu) g = Mul(r, nu) y = Add(p, g)"
_REPEAT = " ".join(
    f"{x}u = Unsqueeze({x}, two) {x}e = Expand({x}u, more) {x}r = Reshape({x}e, merge)" for x in "kv"
)  # fmt: skip

CASES = [
    Case(146, "scale on the scores", _scores(_PRODUCT.replace("m = Mul", "a = Mul") + _END), _ANY),
    Case(146, "scale on the queries", _scores("z = Mul(q, c) " + _TURN + "a = MatMul(z, t)" + _END), _ANY),
    Case(146, "roots of the scale on both",
         _scores("z = Mul(q, c) " + _TURN + "u = Mul(t, c) a = MatMul(z, u)" + _END), _ANY),
    Case(146, "constant mask",
         _scores(_PRODUCT + "a = Add(m, x)" + _END, _HEADS.replace("S", "2"), out="float[B,3,2,8]",
                 constants="float c = {0.5}, float[2,2] x = {0, -inf, 0, 0}"), _ANY),
    Case(146, "mask from a condition, least finite number",
         _scores(_PRODUCT + "h = Where(b, z, l) a = Add(m, h)" + _END, _HEADS + ", bool[B,1,S,S] b",
                 "float c = {0.5}, float z = {0}, float l = {-3.4028235e38}"), _ANY),
    Case(146, "mask from a condition, infinity",
         _scores(_PRODUCT + "h = Where(b, z, l) a = Add(m, h)" + _END, _HEADS + ", bool[B,1,S,S] b",
                 "float c = {0.5}, float z = {0}, float l = {-inf}"), _ANY),
    Case(146, "zeros where no key is seen, only for finite inputs",
         _scores(_PRODUCT + "h = Where(b, z, l) a = Add(m, h) w = Softmax<axis = -1>(a) i = IsNaN(w)"
                 " f = Where(i, z, w) y = MatMul(f, v)", _HEADS + ", bool[B,1,S,S] b",
                 "float c = {0.5}, float z = {0}, float l = {-inf}"), _ANY, level="O3"),
    Case(146, "causal triangle by Trilu",
         _scores(_PRODUCT + "d = Shape<start = 2>(q) e = Slice(d, zero, one) i = Concat<axis = 0>(e, e)"
                 " f = Expand(l, i) h = Trilu<upper = 1>(f, o) a = Add(m, h)" + _END, _HEADS,
                 "float c = {0.5}, float l = {-inf}, int64[1] zero = {0}, int64[1] one = {1}, int64 o = {1}"), _ANY),
    Case(146, "capped scores",
         _scores(_PRODUCT + "d = Div(m, cap) h = Tanh(d) a = Mul(h, cap)" + _END, _HEADS,
                 "float c = {0.5}, float cap = {50}"), _ANY),
    Case(146, "a mask that may hide all keys from a query",
         _scores(_PRODUCT + "a = Add(m, x)" + _END, _HEADS + ", float[B,1,S,S] x"), _ANY,
         unsound="a softmax over -∞ is NaN, and Attention gives zeros"),
    Case(147, "heads that are split and joined",
         _scores(_SPLIT + " t = Transpose<perm = [0,1,3,2]>(kt) s = MatMul(qt, t) a = Mul(s, c) w = Softmax(a)"
                 " o = MatMul(w, vt) ot = Transpose<perm = [0,2,1,3]>(o) y = Reshape(ot, join)",
                 "float[B,S,24] q, float[B,S,24] k, float[B,S,24] v",
                 "float c = {0.5}, int64[4] split = {0, -1, 3, 8}, int64[3] join = {0, -1, 24}", "float[B,S,24]"),
         left(Transpose=0, Reshape=0, Softmax=0)),
    Case(148, "few heads of keys, repeated",
         _scores(_REPEAT + " t = Transpose<perm = [0,1,3,2]>(kr) s = MatMul(q, t) a = Mul(s, c) w = Softmax(a)"
                 " y = MatMul(w, vr)", "float[2,4,5,8] q, float[2,2,5,8] k, float[2,2,5,8] v",
                 "float c = {0.5}, int64[1] two = {2}, int64[5] more = {1,1,2,1,1}, int64[4] merge = {0,4,-1,8}",
                 "float[2,4,5,8]"), left(Expand=0, Softmax=0, Attention=1)),
    Case(149, "rotary, halves",
         _scores(_ANGLES + _HALVES + _TURNED, "float[B,3,S,8] x, float[B,S,4] t", "int64[1] one = {1}"), _ROTARY),
    Case(149, "rotary, angles that may differ within a pair",
         _scores(_ANGLES.replace("Concat<axis = -1>(t, t)", "Identity(t)") + _HALVES + _TURNED,
                 "float[B,3,S,8] x, float[B,S,8] t", "int64[1] one = {1}"), _ROTARY,
         unsound="the operator turns both elements of a pair by one angle"),
    Case(152, "bias for each head, constant",
         _scores(_PRODUCT + "a = Add(m, x)" + _END, _HEADS.replace("S", "2"), out="float[B,3,2,8]",
                 constants="float c = {0.5}, float[3,2,2] x = {0,1,2,3,4,5,6,7,8,9,10,11}"), _ANY),
    Case(152, "bias from a table, by distance",
         _scores(_PRODUCT + "g = Gather(x, i) h = Transpose<perm = [2,0,1]>(g) a = Add(m, h)" + _END,
                 _HEADS.replace("S", "2"), out="float[B,3,2,8]",
                 constants="float c = {0.5}, float[3,3] x = {0,1,2,3,4,5,6,7,8}, int64[2,2] i = {0, 1, 1, 2}"), _ANY),
]
