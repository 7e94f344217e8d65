"""Small models, one or more for each rewrite that is measured: just large enough that the rewrite's operators show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, parser


@dataclass(frozen=True)
class Case:
    """A model that one rewrite applies to. `title` says what it is, with its sizes."""

    rule: str
    title: str
    model: onnx.ModelProto


def cases() -> Iterator[Case]:
    """All of them, those of one rewrite behind each other."""
    for make in (_activations, _rectifiers, _norms, _residuals, _products, _joined, _convolutions, _integers, _attention):
        yield from make()


def _model(signature: str, body: str, opset: int = 17, **constants: np.ndarray) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g {signature} {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return model


def _weight(*shape: int) -> np.ndarray:
    return (np.random.default_rng(len(shape)).standard_normal(shape) * 0.1).astype(np.float32)


def _number(value: float) -> np.ndarray:
    return np.float32(value)  # type: ignore[return-value]


def _activations() -> Iterator[Case]:
    erf = "d = Div(a, r) e = Erf(d) f = Add(e, one) g = Mul(a, f) y = Mul(g, half)"
    tanh = "c = Pow(a, three) d = Mul(c, k) e = Add(a, d) f = Mul(e, s) t = Tanh(f) g = Add(t, one) h = Mul(a, g) y = Mul(h, half)"
    numbers = {"one": _number(1), "half": _number(0.5)}
    roots = {"r": _number(np.sqrt(2)), **numbers}
    curve = {"three": _number(3), "k": _number(0.044715), "s": _number(np.sqrt(2 / np.pi)), **numbers}
    for rows in (4, 64):
        signature, size = f"(float[{rows}, 1024] x) => (float[{rows}, 1024] y)", f"{rows}×1024"
        bias = {"b": _weight(1024)}
        yield Case("contrib.gelu", size, _model(signature, erf.replace("a,", "x,"), **roots))
        yield Case("contrib.fast_gelu", size, _model(signature, tanh.replace("a,", "x,"), **curve))
        yield Case("contrib.bias_gelu", size, _model(signature, "a = Add(x, b) y = Gelu(a)", 20, **bias))
        fast = 'a = Add(x, b) y = Gelu<approximate = "tanh">(a)'
        yield Case("contrib.bias_fast_gelu", size, _model(signature, fast, 20, **bias))
        quick = "a = Mul(x, k) s = Sigmoid(a) y = Mul(x, s)"
        yield Case("contrib.quick_gelu", size, _model(signature, quick, k=_number(1.702)))
        yield Case("fuse.gelu_erf", size, _model(signature, erf.replace("a,", "x,"), 20, **roots))
        yield Case("fuse.gelu_tanh", size, _model(signature, tanh.replace("a,", "x,"), 20, **curve))
        yield Case("fuse.swish", size, _model(signature, "s = Sigmoid(x) y = Mul(x, s)", 24))
        yield Case("fuse.swish", f"{size}, alpha 1.702", _model(signature, quick, 24, k=_number(1.702)))
        yield Case("fuse.mish", size, _model(signature, "s = Softplus(x) t = Tanh(s) y = Mul(x, t)", 22))


def _rectifiers() -> Iterator[Case]:
    """What is one operator in ONNX, but not always a fast one."""
    zero, limits = {"z": _number(0)}, {"z": _number(0), "l": _number(-0.5), "h": _number(0.5)}
    guarded = "s = Softplus(x) c = Greater(x, m) y = Where(c, x, s)"
    hard = "a = Greater(x, h) b = Less(x, l) c = Or(a, b) y = Where(c, x, z)"
    soft = (
        "a = Greater(x, h) p = Sub(x, h) u = Where(a, p, z) b = Less(x, l) q = Add(x, h) v = Where(b, q, z) y = Add(u, v)"
    )
    inner = "m = ReduceMax(x, a) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, a) y = Div(e, s)"
    for rows in (4, 64):
        signature, size = f"(float[{rows}, 1024] x) => (float[{rows}, 1024] y)", f"{rows}×1024"
        yield Case("fuse.softplus", size, _model(signature, guarded, 18, m=_number(20)))
        yield Case("fuse.hard_shrink", size, _model(signature, hard, 18, **limits))
        yield Case("fuse.soft_shrink", size, _model(signature, soft, 18, **limits))
        slope = {"s": _weight(1024)}
        yield Case("fuse.prelu_where", size, _model(signature, "c = Less(x, z) p = Mul(x, s) y = Where(c, p, x)", 18, **zero, **slope))
        lengths = "l = ReduceL2(x, a) y = Div(x, l)"
        yield Case("fuse.lp_normalization", size, _model(signature, lengths, 18, a=np.array([-1])))
        middle = f"(float[4, {rows}, 256] x) => (float[4, {rows}, 256] y)"
        yield Case("fuse.softmax_inner", f"4×{rows}×256", _model(middle, inner, 18, a=np.array([1])))


def _residuals() -> Iterator[Case]:
    for rows, width in ((1, 768), (8, 64), (64, 768)):
        shape = f"float[1, {rows}, {width}]"
        vectors = {"scale": _weight(width), "beta": _weight(width)}
        body = "s = Add(x, z) y = LayerNormalization(s, scale, beta)"
        model = _model(f"({shape} x, {shape} z) => ({shape} y)", body, **vectors)
        yield Case("contrib.residual_sum", f"{rows}×{width}", model)


def _joined() -> Iterator[Case]:
    """Projections of one tensor, as one product."""
    for rows, width in ((8, 64), (64, 256)):
        shape = f"float[1, {rows}, {width}]"
        weights = {name: _weight(width, width) * k for name, k in (("q", 1), ("k", 2), ("v", 3))}
        body = "a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v) y = Concat<axis = -1>(a, b, c)"
        signature = f"({shape} x) => (float[1, {rows}, {3 * width}] y)"
        yield Case("fuse.joined_products", f"3 × {rows}×{width}×{width}", _model(signature, body, **weights))


def _norms() -> Iterator[Case]:
    written = (
        "m = ReduceMean<axes = [-1]>(s) d = Sub(s, m) q = Pow(d, two) v = ReduceMean<axes = [-1]>(q) w = Add(v, eps) "
        "r = Sqrt(w) n = Div(d, r) g = Mul(n, scale) y = Add(g, beta)"
    )
    root = (
        "q = Mul(s, s) v = ReduceMean<axes = [-1]>(q) w = Add(v, eps) r = Sqrt(w) n = Div(s, r) y = Mul(n, scale)"
    )
    numbers = {"two": _number(2), "eps": _number(1e-5)}
    for rows in (4, 64):
        signature, size = f"(float[1, {rows}, 768] x, float[1, {rows}, 768] z) => (float[1, {rows}, 768] y)", f"{rows}×768"
        vectors = {"scale": _weight(768), "beta": _weight(768)}
        norm = "s = Add(x, z) y = LayerNormalization(s, scale, beta)"
        both = signature.replace("y)", f"y, float[1, {rows}, 768] s)")
        yield Case("contrib.skip_layer_norm", size, _model(signature, norm, **vectors))
        yield Case("contrib.skip_layer_norm_sum", size, _model(both, norm, **vectors))
        out = {**vectors, **numbers}
        yield Case("contrib.skip_layer_norm_written_out", size, _model(signature, f"s = Add(x, z) {written}", 13, **out))
        yield Case("contrib.skip_layer_norm_written_out_sum", size, _model(both, f"s = Add(x, z) {written}", 13, **out))
        bias = "a = Add(x, bias) s = Add(a, z) y = LayerNormalization(s, scale, beta)"
        yield Case("contrib.skip_layer_norm_bias", size, _model(signature, bias, bias=_weight(768), **vectors))
        yield Case("contrib.skip_layer_norm_bias_sum", size, _model(both, bias, bias=_weight(768), **vectors))
        rms = {"scale": _weight(768), "eps": _number(1e-5)}
        yield Case("contrib.skip_rms_norm", size, _model(signature, f"s = Add(x, z) {root}", 13, **rms))
        yield Case("contrib.skip_rms_norm_sum", size, _model(both, f"s = Add(x, z) {root}", 13, **rms))
        alone = signature.replace(f", float[1, {rows}, 768] z", "")
        yield Case("fuse.layer_norm", size, _model(alone, written.replace("(s", "(x"), **out))
        yield Case("fuse.rms_norm", size, _model(alone, _modern(root), 23, axes=np.array([-1]), **rms))


def _modern(text: str) -> str:
    """The normalization of x, with the axes of means as an operand."""
    return text.replace("<axes = [-1]>(q)", "(q, axes)").replace("(s, s)", "(x, x)").replace("(s, r)", "(x, r)")


def _products() -> Iterator[Case]:
    for rows in (16, 64):
        signature = f"(float[8, {rows}, 64] a, float[8, {rows}, 64] b) => (float[8, {rows}, {rows}] y)"
        size = f"8×{rows}×64"
        turned = "t = Transpose<perm = [0, 2, 1]>(b) y = MatMul(a, t)"
        yield Case("contrib.matmul_transposed", size, _model(signature, turned))
        transposed = signature.replace(f"{rows}, 64] b", f"64, {rows}] b")
        scale = {"k": _number(0.125)}
        yield Case("contrib.matmul_scaled_operands", size, _model(transposed, "s = Mul(a, k) y = MatMul(s, b)", **scale))
        yield Case("contrib.matmul_scaled", size, _model(transposed, "s = MatMul(a, b) y = Mul(s, k)", **scale))
        dense = f"(float[{rows}, 256] x) => (float[{rows}, 512] y)"
        gemm = {"w": _weight(256, 512), "b": _weight(512)}
        yield Case("contrib.gemm_activation", f"{rows}×256×512", _model(dense, "g = Gemm(x, w, b) y = Relu(g)", **gemm))


def _convolutions() -> Iterator[Case]:
    for side in (7, 28):
        signature, size = f"(float[1, 32, {side}, {side}] x) => (float[1, 32, {side}, {side}] y)", f"32×{side}×{side}"
        weights = {"w": _weight(32, 32, 3, 3), "b": _weight(32)}
        conv = "c = Conv<pads = [1, 1, 1, 1]>(x, w, b)"
        yield Case("contrib.conv_activation", size, _model(signature, f"{conv} y = Relu(c)", **weights))
        yield Case("contrib.conv_activation", f"{size}, Sigmoid", _model(signature, f"{conv} y = Sigmoid(c)", **weights))
        yield Case("contrib.conv_sum", size, _model(signature, f"{conv} y = Add(c, x)", **weights))


def _integers() -> Iterator[Case]:
    body = (
        "q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z, wz) f = Cast<to = 1>(i) m = Mul(s, ws) y = Mul(f, m)"
    )
    weight = np.random.default_rng(0).integers(-100, 100, (256, 256)).astype(np.int8)
    for rows in (4, 64):
        given = {"w": weight, "wz": np.int8(0), "ws": _number(0.01)}
        signature, size = f"(float[{rows}, 256] x) => (float[{rows}, 256] y)", f"{rows}×256×256"
        yield Case("contrib.dynamic_quantize_matmul", size, _model(signature, body, **given))
        twice = signature.replace("y)", f"y, float[{rows}, 256] y2)")
        other = "i2 = MatMulInteger(q, w2, z, wz) f2 = Cast<to = 1>(i2) m2 = Mul(s, ws2) y2 = Mul(f2, m2)"
        both = _model(twice, f"{body} {other}", w2=-weight, ws2=_number(0.02), **given)
        yield Case("contrib.matmul_integer_to_float", size, both)


def _attention() -> Iterator[Case]:
    body = "t = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, t) c = Mul(s, n) p = Softmax<axis = -1>(c) y = MatMul(p, v)"
    for length in (8, 64, 256):
        shape = f"float[1, 4, {length}, 32]"
        model = _model(f"({shape} q, {shape} k, {shape} v) => ({shape} y)", body, 23, n=_number(32**-0.5))
        yield Case("fuse.attention", f"4 heads × {length} × 32", model)
        wide = f"float[1, {length}, 128]"
        split = "a = Reshape(q, h) b = Transpose<perm = [0, 2, 1, 3]>(a) c = Reshape(k, h) d = Transpose<perm = [0, 2, 3, 1]>(c)"
        rest = (
            "e = Reshape(v, h) f = Transpose<perm = [0, 2, 1, 3]>(e) s = MatMul(b, d) t = Mul(s, n) {mask} "
            "p = Softmax<axis = -1>({last}) o = MatMul(p, f) r = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(r, w)"
        )
        shapes = {"h": np.array([0, 0, 4, 32]), "w": np.array([0, 0, 128]), "n": _number(32**-0.5)}
        signature = f"({wide} q, {wide} k, {wide} v, float[1, 1, 1, {length}] m) => ({wide} y)"
        for title, mask, last in (("", "", "t"), (", masked", "u = Add(t, m)", "u")):
            inputs = signature if mask else signature.replace(f", float[1, 1, 1, {length}] m", "")
            model = _model(inputs, f"{split} {rest.format(mask=mask, last=last)}", 17, **shapes)
            yield Case("contrib.multi_head_attention", f"4 heads × {length} × 32{title}", model)
