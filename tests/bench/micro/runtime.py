"""What only one runtime has operators for: fusions into ONNX Runtime's own domain, in several sections."""

from __future__ import annotations

from tests.bench.micro.case import Case, gone, left, text

_SUM = "(float[N,S,4] x, float[N,S,4] z) => (float[N,S,4] y) <float[4] g = {1, 2, 3, 4}, float[4] b = {4, 3, 2, 1}>"
_CONV = "(float[N,1,6,6] x) => (float[N,2,4,4] y) <float[2,1,3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1}>"


def _case(row: int, name: str, model: str, *ops: str, made: str, unsound: str = "") -> Case:
    return Case(row, name, model, left(**dict.fromkeys(ops, 0), **{made: 1}), target="ort-cpu", level="O3", unsound=unsound)


CASES = [
    _case(40, "a Transpose into MatMul", text("(float[N,3,4] x, float[N,5,4] z) => (float[N,3,5] y) "
          "{ t = Transpose<perm = [0, 2, 1]>(z) y = MatMul(x, t) }"), "Transpose", "MatMul", made="FusedMatMul"),
    _case(109, "Relu into Conv", text(f"{_CONV} {{ c = Conv(x, w) y = Relu(c) }}", 17), "Relu", "Conv", made="FusedConv"),
    _case(109, "Sigmoid into Conv", text(f"{_CONV} {{ c = Conv(x, w) y = Sigmoid(c) }}", 17), "Sigmoid", "Conv", made="FusedConv"),
    _case(110, "Tanh into Gemm", text("(float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> "
          "{ g = Gemm(x, w) y = Tanh(g) }"), "Tanh", "Gemm", made="FusedGemm"),
    _case(115, "a scale into MatMul", text("(float[N,3,4] x, float[N,4,5] z) => (float[N,3,5] y) <float k = {0.3}> "
          "{ m = MatMul(x, z) y = Mul(m, k) }"), "Mul", "MatMul", made="FusedMatMul"),
    _case(124, "Gelu before opset 20", text("(float[N,4] x) => (float[N,4] y) "
          "<float r = {1.4142135}, float one = {1}, float half = {0.5}> "
          "{ d = Div(x, r) e = Erf(d) f = Add(e, one) m = Mul(x, f) y = Mul(m, half) }", 17), "Erf", made="Gelu"),
    _case(126, "QuickGelu", text("(float[N,4] x) => (float[N,4] y) <float k = {1.702}> "
          "{ m = Mul(x, k) s = Sigmoid(m) y = Mul(x, s) }", 17), "Sigmoid", "Mul", made="QuickGelu"),
    _case(128, "a bias into Gelu", text("(float[N,2] x) => (float[N,2] y) <float[2] b = {1, 2}> "
          "{ a = Add(x, b) y = Gelu(a) }", 20), "Add", "Gelu", made="BiasGelu"),
    Case(140, "a sum into LayerNormalization", text(f"{_SUM} {{ s = Add(x, z) y = LayerNormalization(s, g, b) }}", 17),
         left(Add=0, LayerNormalization=0, SkipLayerNormalization=1), target="ort-cuda", level="O3"),
    Case(134, "a bias into Softmax: no kernel on a processor", text("(float[N,2,2] x, float[N,2,2] m) => (float[N,2,2] y) "
         "{ a = Add(x, m) y = Softmax<axis = -1>(a) }", 17), gone("Add"), target="ort-cpu", level="O3",
         unsound="there is no kernel of BiasSoftmax on a processor"),
    Case(141, "EmbedLayerNormalization", text("(int64[N,S] ids) => (float[N,S,4] y) <float[2,4] t = {1, 2, 3, 4, 4, 3, 2, 1}, "
         "float[4] g = {1, 2, 3, 4}, float[2,4] p = {1, 1, 2, 2, 3, 3, 4, 4}, int64[1,2] at = {0, 1}> "
         "{ a = Gather(t, ids) q = Gather(p, at) s = Add(a, q) y = LayerNormalization(s, g) }", 17), gone("Gather"),
         target="ort-cpu", level="O3", unsound="a negative id counts from the end in Gather, and is an error in the kernel"),
]  # fmt: skip
