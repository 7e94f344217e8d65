"""Sections 8 and 9: activations and normalizations, as standard operators."""

from __future__ import annotations

from tests.bench.micro.case import Case, left, text

_X = "(float[N,3,4] x) => (float[N,3,4] y)"
_MAP = "(float[N,4,5,6] x) => (float[N,4,5,6] y)"
_LINE = "<int64[1] a = {-1}, float eps = {1e-5}, float two = {2}, float[4] g = {1, 2, 3, 4}, float[4] b = {4, 3, 2, 1}>"
_TANH = "<float h = {0.5}, float one = {1}, float k = {0.044715}, float p = {0.7978846}, float three = {3}>"


def _case(row: int, name: str, body: str, opset: int, signature: str = _X, level: str = "O2", **counts: int) -> Case:
    return Case(row, name, text(f"{signature} {body}", opset), left(**counts), level=level)


CASES = [
    _case(123, "Gelu of erf", "<float h = {0.5}, float one = {1}, float s = {1.4142135}>"
          " { d = Div(x, s) e = Erf(d) f = Add(e, one) m = Mul(x, f) y = Mul(m, h) }", 20, Gelu=1, Erf=0),
    _case(125, "Gelu of tanh", _TANH + " { c = Pow(x, three) d = Mul(c, k) e = Add(x, d) i = Mul(e, p) t = Tanh(i)"
          " u = Add(t, one) v = Mul(x, h) y = Mul(v, u) }", 20, Gelu=1, Tanh=0),
    _case(126, "quick Gelu", "<float q = {1.702}> { m = Mul(x, q) s = Sigmoid(m) y = Mul(x, s) }", 24, Swish=1, Sigmoid=0),
    _case(127, "Swish", "{ s = Sigmoid(x) y = Mul(x, s) }", 24, Swish=1, Sigmoid=0),
    _case(127, "Swish of an exponential", "<float one = {1}> { n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(x, s) }", 18,
          Sigmoid=1, Mul=1, Exp=0, Div=0),
    _case(130, "Softplus", "<float one = {1}> { e = Exp(x) s = Add(e, one) y = Log(s) }", 18, level="O3", Softplus=1, Log=0),
    _case(131, "Mish", "{ s = Softplus(x) t = Tanh(s) y = Mul(x, t) }", 18, Mish=1, Tanh=0),
    _case(132, "hard swish", "<float t = {3}, float z = {0}, float s = {6}>"
          " { a = Add(x, t) c = Clip(a, z, s) m = Mul(x, c) y = Div(m, s) }", 14, HardSwish=1, Clip=0),
    _case(132, "hard sigmoid", "<float t = {3}, float z = {0}, float s = {6}>"
          " { a = Add(x, t) c = Clip(a, z, s) y = Div(c, s) }", 14, HardSigmoid=1, Clip=0),
    _case(133, "leaky relu of Max", "<float a = {0.1}> { m = Mul(x, a) y = Max(x, m) }", 18, LeakyRelu=1, Max=0),
    _case(133, "leaky relu of parts", "<float a = {0.1}>"
          " { r = Relu(x) n = Neg(x) s = Relu(n) t = Mul(s, a) y = Sub(r, t) }", 18, LeakyRelu=1, Relu=0),
    _case(133, "PRelu", "<float[4] a = {0.1, 0.2, 0.3, 0.4}>"
          " { r = Relu(x) n = Neg(x) s = Relu(n) t = Mul(s, a) y = Sub(r, t) }", 18, PRelu=1, Relu=0),
    _case(136, "LayerNormalization", _LINE + " { m = ReduceMean(x, a) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, a)"
          " w = Add(v, eps) r = Sqrt(w) n = Div(d, r) s = Mul(n, g) y = Add(s, b) }", 18, LayerNormalization=1, Add=0),
    _case(137, "LayerNormalization, axes as attribute", _LINE.replace("int64[1] a = {-1}, ", "")
          + " { m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q)"
          " w = Add(v, eps) r = Sqrt(w) n = Div(d, r) s = Mul(n, g) y = Add(s, b) }", 17, LayerNormalization=1, Add=0),
    _case(138, "LayerNormalization over channels", "<int64[1] a = {1}, float eps = {1e-5}>"
          " { m = ReduceMean(x, a) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, a) w = Add(v, eps) r = Sqrt(w)"
          " y = Div(d, r) }", 18, _MAP, LayerNormalization=1, ReduceMean=0),
    _case(138, "LayerNormalization of TensorFlow", _LINE + " { m = ReduceMean(x, a) d = Sub(x, m) q = Mul(d, d)"
          " v = ReduceMean(q, a) w = Add(v, eps) r = Sqrt(w) i = Reciprocal(r) s = Mul(i, g) k = Mul(x, s) l = Mul(m, s)"
          " t = Sub(b, l) y = Add(k, t) }", 18, LayerNormalization=1, ReduceMean=0),
    _case(139, "RMSNormalization", _LINE + " { q = Pow(x, two) v = ReduceMean(q, a) w = Add(v, eps) r = Sqrt(w)"
          " n = Div(x, r) y = Mul(n, g) }", 23, RMSNormalization=1, ReduceMean=0),
    _case(142, "GroupNormalization", "<int64[3] r = {0, 2, -1}, float[2] o = {1, 1}, float[2] z = {0, 0}>"
          " { s = Shape(x) p = Reshape(x, r) i = InstanceNormalization(p, o, z) y = Reshape(i, s) }", 21, _MAP, level="O3",
          GroupNormalization=1, Reshape=0),
    _case(143, "LpNormalization", "<int64[1] a = {-1}> { l = ReduceL2(x, a) y = Div(x, l) }", 18, level="O3",
          LpNormalization=1, Div=0),
    _case(144, "InstanceNormalization", "<int64[2] a = {2, 3}, float eps = {1e-5}>"
          " { m = ReduceMean(x, a) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, a) w = Add(v, eps) r = Sqrt(w)"
          " y = Div(d, r) }", 18, _MAP, InstanceNormalization=1, ReduceMean=0),
    _case(145, "a factor after a normalization", _LINE + " { n = LayerNormalization(x, g) y = Mul(n, b) }", 17,
          LayerNormalization=1, Mul=0),
]  # fmt: skip
