"""Section 7: convolutions and products of matrices, with constants around them and next to each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper, parser

from tests.bench.micro.case import Case, gone, left, text

_IMAGE = "(float[N,3,8,8] x) => (float[N,P,Q,R] y)"
_ROWS = "(float[N,5] x) => (float[N,4] y)"
_BATCH = "(float[B,N,5] x) => (float[B,N,4] y)"
_NORM = ("gamma", "beta", "mean", "var")


def _build(signature: str, body: str, opset: int, weights: dict[str, tuple[int, ...]]) -> Callable[[], onnx.ModelProto]:
    """A model whose weights have these shapes; `var` and what begins with `p_` are positive, `z_` are zeros."""

    def made() -> onnx.ModelProto:
        rng = np.random.default_rng(7)
        model = parser.parse_model(text(f"{signature} {{ {body} }}", opset))
        for name, shape in weights.items():
            array = rng.standard_normal(shape)
            if name == "var" or name.startswith("p_"):
                array = np.abs(array) + 0.5
            if name.startswith("z_"):
                array = np.zeros(shape)
            model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        return model

    return made


def _case(row: int, name: str, body: str, fired: object, signature: str = _IMAGE, *, opset: int = 18, level: str = "O2",
          unsound: str = "", norm: int = 0, **weights: tuple[int, ...]) -> Case:
    shapes = {**weights, **dict.fromkeys(_NORM if norm else (), (norm,))}
    return Case(row, name, _build(signature, body, opset, shapes), fired, level=level, unsound=unsound)  # type: ignore[arg-type]


_BN = "y = BatchNormalization(c, gamma, beta, mean, var)"
_W = (4, 3, 3, 3)

CASES = [
    # BatchNormalization behind
    *[_case(101, f"BN into Conv, opset {opset}", f"c = Conv(x, w) {_BN}", gone("BatchNormalization"), norm=4, w=_W, opset=opset)
      for opset in (9, 13, 18)],
    _case(101, "BN into Conv with bias and groups", f"c = Conv<group=3, pads=[1,1,1,1]>(x, w, b) {_BN}",
          gone("BatchNormalization"), norm=6, w=(6, 1, 3, 3), b=(6,)),
    _case(101, "BN into Conv of one dimension", f"c = Conv(x, w) {_BN}", gone("BatchNormalization"),
          "(float[N,3,8] x) => (float[N,P,Q] y)", norm=4, w=(4, 3, 3)),
    _case(101, "BN into Conv of three dimensions", f'c = Conv<auto_pad="SAME_UPPER">(x, w) {_BN}', gone("BatchNormalization"),
          "(float[N,3,4,4,4] x) => (float[N,P,Q,R,S] y)", norm=4, w=(4, 3, 2, 2, 2)),
    _case(101, "BN into Conv, two in a row", f"a = Conv(x, w) c = BatchNormalization(a, gamma, beta, mean, var) {_BN}",
          gone("BatchNormalization"), norm=4, w=_W),
    _case(102, "BN into ConvTranspose", f"c = ConvTranspose<strides=[2,2]>(x, w) {_BN}", gone("BatchNormalization"), norm=4,
          w=(3, 4, 2, 2)),
    _case(102, "BN into ConvTranspose with groups", f"c = ConvTranspose<group=3>(x, w, b) {_BN}", gone("BatchNormalization"),
          norm=6, w=(3, 2, 2, 2), b=(6,)),
    _case(103, "BN into Gemm", f"c = Gemm<transB=1>(x, w, b) {_BN}", gone("BatchNormalization"), _ROWS, norm=4, w=(4, 5), b=(4,)),
    _case(103, "BN into MatMul", f"c = MatMul(x, w) {_BN}", left(BatchNormalization=0, Gemm=1), _ROWS, norm=4, w=(5, 4)),
    _case(103, "BN into MatMul behind a Transpose",
          f"m = MatMul(x, w) a = Add(m, b) c = Transpose<perm=[0,2,1]>(a) {_BN}", gone("BatchNormalization"),
          "(float[B,N,5] x) => (float[B,4,N] y)", norm=4, w=(5, 4), b=(4,)),
    _case(103, "Gemm into BN", "c = BatchNormalization(x, gamma, beta, mean, var) y = Gemm(c, w, b)", gone("BatchNormalization"),
          _ROWS, norm=5, w=(5, 4), b=(4,)),
    # BatchNormalization before
    _case(104, "BN before Conv", "c = BatchNormalization(x, gamma, beta, mean, var) y = Conv(c, w)", gone("BatchNormalization"),
          norm=3, w=_W),
    _case(104, "BN before Conv that pads", "c = BatchNormalization(x, gamma, beta, mean, var) y = Conv<pads=[1,1,1,1]>(c, w)",
          gone("BatchNormalization"), norm=3, w=_W, unsound="the padding is zeros, not what the zeros become"),
    _case(104, "BN that shifts nothing before Conv that pads",
          "c = BatchNormalization(x, gamma, z_0, z_0, var) y = Conv<pads=[1,1,1,1]>(c, w)", left(Conv=1, Mul=0, BatchNormalization=0),
          w=_W, gamma=(3,), z_0=(3,), var=(3,)),
    # factors and summands behind
    *[_case(105, f"Conv {name}", f"c = Conv(x, w, b) {body}", gone("Mul", "Div"), w=_W, b=(4,), p_k=shape) for name, body, shape in (
        ("* [C,1,1]", "y = Mul(c, p_k)", (4, 1, 1)), ("* [1,C,1,1], left", "y = Mul(p_k, c)", (1, 4, 1, 1)),
        ("* number", "y = Mul(c, p_k)", ()), ("/ [C,1,1]", "y = Div(c, p_k)", (4, 1, 1)), ("* [1]", "y = Mul(c, p_k)", (1,)))],
    _case(105, "Conv * [W]", "c = Conv(x, w) y = Mul(c, k)", gone("Mul"), "(float[N,3,8,8] x) => (float[N,6,6,6] y)",
          w=(6, 3, 3, 3), k=(6,), unsound="it broadcasts over the width"),
    _case(105, "Conv * [H,1]", "c = Conv(x, w) y = Mul(c, k)", gone("Mul"), w=(6, 3, 3, 3), k=(6, 1), unsound="it broadcasts over the height"),
    _case(105, "ConvTranspose * [C,1,1]", "c = ConvTranspose(x, w) y = Mul(c, k)", gone("Mul"), w=(3, 4, 2, 2), k=(4, 1, 1)),
    _case(105, "Conv, depthwise Conv of one element", "c = Conv(x, w, b) y = Conv<group=4>(c, s, t)", left(Conv=1),
          w=_W, b=(4,), s=(4, 1, 1, 1), t=(4,)),
    _case(105, "Conv, moved axes, * [C]", "c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) y = Mul(t, k)", gone("Mul"), w=_W, k=(4,)),
    _case(106, "[C,1,1] * x into Conv", "c = Mul(x, k) y = Conv<pads=[1,1,1,1]>(c, w)", gone("Mul"), w=_W, k=(3, 1, 1)),
    _case(106, "x / number into ConvTranspose", "c = Div(x, p_k) y = ConvTranspose(c, w)", gone("Div"), w=(3, 4, 2, 2), p_k=()),
    _case(106, "[C,1,1] * x into depthwise Conv", "c = Mul(x, k) y = Conv<group=3>(c, w)", gone("Mul"), w=(6, 1, 3, 3), k=(3, 1, 1)),
    *[_case(107, f"Conv {name}", f"c = Conv(x, w) {body}", gone("Add", "Sub"), w=_W, k=shape) for name, body, shape in (
        ("+ [C,1,1]", "y = Add(c, k)", (4, 1, 1)), ("+ number", "y = Add(k, c)", ()), ("- [1,C,1,1]", "y = Sub(c, k)", (1, 4, 1, 1)),
        ("subtracted from a number", "y = Sub(k, c)", (1,)))],
    _case(107, "Conv + [W]", "c = Conv(x, w) y = Add(c, k)", gone("Add"), w=(6, 3, 3, 3), k=(6,), unsound="it broadcasts over the width"),
    _case(108, "the preprocessing of an image", "a = Sub(x, m) c = Div(a, p_s) y = Conv(c, w, b)", left(Conv=1, Sub=0, Div=0, Mul=0, Add=0),
          w=_W, b=(4,), m=(3, 1, 1), p_s=(3, 1, 1)),
    _case(108, "x / 255 into Conv that pads", "c = Div(x, p_s) y = Conv<pads=[1,1,1,1]>(c, w, b)", gone("Div"), w=_W, b=(4,), p_s=()),
    _case(108, "x - mean into Conv that pads", "c = Sub(x, m) y = Conv<pads=[1,1,1,1]>(c, w)", gone("Sub"), w=_W, m=(3, 1, 1),
          unsound="the padding is zeros, not what the zeros become"),
    _case(108, "x - mean into Conv with SAME", 'c = Sub(x, m) y = Conv<auto_pad="SAME_LOWER">(c, w)', gone("Sub"), w=_W, m=(3, 1, 1),
          unsound="the padding is zeros, not what the zeros become"),
    _case(108, "x / 255 - mean, / std", "k = Constant<value_float=255.0>() a = Div(x, k) c = Sub(a, m) y = Div(c, p_s)",
          left(Mul=1, Sub=1, Div=0), m=(3, 1, 1), p_s=(3, 1, 1)),
    # products and summands
    *[_case(111, f"x @ w {name}", f"c = MatMul(x, w) {body}", left(Gemm=1, Add=0, Sub=0, MatMul=0), _ROWS, w=(5, 4), k=shape)
      for name, body, shape in (("+ [N]", "y = Add(c, k)", (4,)), ("+ [1,N], left", "y = Add(k, c)", (1, 4)),
                                ("+ number", "y = Add(c, k)", ()), ("- [N]", "y = Sub(c, k)", (4,)))],
    _case(111, "computed matrices and a computed bias", "c = MatMul(x, u) y = Add(c, v)", left(Gemm=1, Add=0),
          "(float[N,5] x, float[5,4] u, float[N,4] v) => (float[N,4] y)"),
    _case(111, "a bias that gives more rows", "c = MatMul(x, u) y = Add(c, v)", left(Gemm=1),
          "(float[1,5] x, float[5,4] u, float[3,4] v) => (float[3,4] y)", unsound="Gemm does not broadcast its product"),
    _case(112, "a product of batches and a bias", "c = MatMul(x, w) y = Add(c, b)", gone("Gemm", "Reshape"), _BATCH, w=(5, 4), b=(4,)),
    _case(113, "Gemm + [N]", "c = Gemm(x, w, b) y = Add(c, k)", gone("Add"), _ROWS, w=(5, 4), b=(4,), k=(4,)),
    _case(113, "Gemm without a bias + computed", "c = Gemm<alpha=0.5>(x, w) y = Add(k, c)", gone("Add"),
          "(float[N,5] x, float[N,4] k) => (float[N,4] y)", w=(5, 4)),
    _case(113, "Gemm - computed", "c = Gemm<transB=1>(x, w) y = Sub(c, k)", gone("Sub"),
          "(float[N,5] x, float[N,1] k) => (float[N,4] y)", w=(4, 5)),
    _case(113, "x + [K] before Gemm", "c = Add(x, k) y = Gemm(c, w, b)", gone("Add"), _ROWS, w=(5, 4), b=(4,), k=(5,)),
    *[_case(114, f"Gemm {name}", f"c = Gemm<alpha=0.5, beta=2.0>(x, w, b) {body}", gone("Mul", "Div"), _ROWS, w=(5, 4), b=(4,), p_k=shape)
      for name, body, shape in (("* [N]", "y = Mul(c, p_k)", (4,)), ("* number", "y = Mul(c, p_k)", ()), ("/ [1,N]", "y = Div(c, p_k)", (1, 4)))],
    _case(114, "Gemm of computed matrices * number", "c = Gemm<beta=0.5>(x, u, v) y = Mul(c, p_k)", gone("Mul"),
          "(float[N,5] x, float[5,4] u, float[N,4] v) => (float[N,4] y)", p_k=()),
    _case(114, "[K] * x before Gemm", "c = Mul(x, k) y = Gemm(c, w, b)", gone("Mul"), _ROWS, w=(5, 4), b=(4,), k=(5,)),
    *[_case(115, name, body, gone("Mul", "Div"), _BATCH, w=(5, 4), p_k=shape, b=(4,)) for name, body, shape in (
        ("(x @ w) * [N]", "c = MatMul(x, w) y = Mul(c, p_k)", (4,)), ("(x @ w) / number", "c = MatMul(x, w) y = Div(c, p_k)", ()),
        ("(x * [K]) @ w", "c = Mul(x, p_k) y = MatMul(c, w)", (5,)), ("(x / number) @ w", "c = Div(x, p_k) y = MatMul(c, w)", (1,)),
        ("(x @ w + b) * number", "c = MatMul(x, w) a = Add(c, b) y = Mul(a, p_k)", ()))],
    _case(115, "w @ (x * [K,1])", "c = Mul(x, k) y = MatMul(w, c)", gone("Mul"), "(float[B,5,N] x) => (float[B,4,N] y)", w=(4, 5), k=(5, 1)),
    _case(115, "(w @ x) * [M,1]", "c = MatMul(w, x) y = Mul(c, k)", gone("Mul"), "(float[B,5,N] x) => (float[B,4,N] y)", w=(4, 5), k=(4, 1)),
    _case(115, "(x @ w) * [M,1]", "c = MatMul(x, w) y = Mul(c, k)", gone("Mul"), "(float[3,5] x) => (float[3,4] y)", w=(5, 4), k=(3, 1),
          unsound="it differs between rows"),
    _case(115, "computed matrices * number", "c = MatMul(x, u) y = Mul(c, p_k)", left(Gemm=1, Mul=0),
          "(float[N,5] x, float[5,4] u) => (float[N,4] y)", p_k=()),
    _case(115, "the scale of queries behind heads",
          "m = MatMul(x, w) a = Add(m, b) s = Constant<value_ints=[0,0,2,2]>() r = Reshape(a, s) t = Transpose<perm=[0,2,1,3]>(r) y = Mul(t, p_k)",
          gone("Mul"), "(float[B,N,5] x) => (float[B,2,N,2] y)", w=(5, 4), b=(4,), p_k=()),
    _case(116, "(x @ a) @ c", "p = MatMul(x, a) y = MatMul(p, c)", left(MatMul=1), _BATCH, a=(5, 6), c=(6, 4), level="O3"),
    _case(116, "(x @ a + b) @ c + d", "p = MatMul(x, a) q = Add(p, b) r = MatMul(q, c) y = Add(r, d)", left(MatMul=1), _BATCH,
          a=(5, 6), b=(6,), c=(6, 4), d=(4,), level="O3"),
    _case(116, "two Gemms", "p = Gemm(x, a, b) y = Gemm<transB=1>(p, c, d)", left(Gemm=1), _ROWS, a=(5, 6), b=(6,), c=(4, 6), d=(4,), level="O3"),
    _case(116, "(x @ a) @ c through few numbers", "p = MatMul(x, a) y = MatMul(p, c)", left(MatMul=1), "(float[N,9] x) => (float[N,9] y)",
          a=(9, 1), c=(1, 9), level="O3", unsound="it multiplies more"),
    _case(116, "(x @ a) @ c, infinities", "p = MatMul(x, a) y = MatMul(p, c)", left(MatMul=1), _BATCH, a=(5, 6), c=(6, 4),
          unsound="an infinity meets other numbers"),
    _case(116, "Conv, Conv of one element", "c = Conv<pads=[1,1,1,1]>(x, w, b) y = Conv(c, v, d)", left(Conv=1), w=(8, 3, 3, 3), b=(8,),
          v=(4, 8, 1, 1), d=(4,), level="O3"),
    # next to each other
    _case(117, "three products of few rows", "a = MatMul(x, u) b = MatMul(x, v) c = MatMul(x, w) p = Relu(a) q = Tanh(b) r = Abs(c) "
          "s = MatMul(p, q) y = MatMul(s, r)", left(MatMul=3, Split=1), "(float[4,4] x) => (float[4,4] y)", u=(4, 4), v=(4, 4), w=(4, 4)),
    _case(117, "products that are joined", "a = MatMul(x, u) b = MatMul(x, v) y = Concat<axis=-1>(a, b)", left(MatMul=1, Concat=0),
          "(float[B,N,5] x) => (float[B,N,7] y)", u=(5, 4), v=(5, 3)),
    _case(117, "Gemms that are joined", "a = Gemm(x, u, b) c = Gemm(x, v) y = Concat<axis=1>(a, c)", left(Gemm=1, Concat=0),
          "(float[N,5] x) => (float[N,7] y)", u=(5, 4), v=(5, 3), b=(4,)),
    _case(118, "convolutions that are joined", "a = Conv(x, u, b) c = Conv(x, v) y = Concat<axis=1>(a, c)", left(Conv=1, Concat=0),
          u=_W, v=(2, 3, 3, 3), b=(4,)),
    _case(118, "convolutions that are joined, with Relu", "a = Conv(x, u) c = Conv(x, v) p = Relu(a) q = Relu(c) y = Concat<axis=1>(p, q)",
          left(Conv=1, Concat=0, Relu=1), u=_W, v=(2, 3, 3, 3)),
    _case(118, "convolutions of other padding", "a = Conv<pads=[1,1,1,1]>(x, u) c = Conv<pads=[0,0,2,2]>(x, v) y = Concat<axis=1>(a, c)",
          left(Conv=1), u=_W, v=_W, unsound="the padding differs"),
    # what is there for nothing
    _case(120, "Conv without a bias", "y = Conv(x, w, z_b)", lambda m: all(len(n.input) == 2 for n in m.graph.node if n.op_type == "Conv"),
          w=_W, z_b=(4,)),
    _case(120, "ConvTranspose without a bias", "y = ConvTranspose(x, w, z_b)",
          lambda m: all(len(n.input) == 2 for n in m.graph.node if n.op_type == "ConvTranspose"), w=(3, 4, 2, 2), z_b=(4,)),
    _case(120, "Gemm without a bias", "y = Gemm<beta=0.5>(x, w, z_b)",
          lambda m: all(len(n.input) == 2 for n in m.graph.node if n.op_type == "Gemm"), _ROWS, w=(5, 4), z_b=(4,)),
    _case(120, "BN, BN", "a = BatchNormalization(x, gamma, beta, mean, var) c = Relu(a) d = BatchNormalization(c, gamma, beta, mean, var) "
          "y = BatchNormalization(d, gamma, beta, mean, var)", left(BatchNormalization=2), norm=3),
    _case(120, "BN * [C,1,1]", "c = BatchNormalization(x, gamma, beta, mean, var) y = Mul(c, k)", left(BatchNormalization=1, Mul=0), norm=3, k=(3, 1, 1)),
    _case(120, "[C,1,1] + x, BN", "c = Add(x, k) y = BatchNormalization(c, gamma, beta, mean, var)", left(BatchNormalization=1, Add=0), norm=3, k=(3, 1, 1)),
]  # fmt: skip
