"""Section 3: Transpose."""

from __future__ import annotations

from tests.bench.micro.case import Case, gone, left, text

_SIZES = "<float[3] s = {0.5, 1.5, 2.5}>"


def _through(body: str, dims: str = "N,4,5,3", opset: int = 18) -> str:
    """An operation on a map in NHWC, between a Transpose there and one back."""
    return text(
        f"(float[N,3,4,5] x) => (float[{dims}] y) {_SIZES}"
        f" {{ a = Transpose<perm = [0, 2, 3, 1]>(x)  {body} }}", opset,
    )


_BACK = "y = Transpose<perm = [0, 3, 1, 2]>(b)"
_SAME = "N,3,4,5"

CASES = [
    Case(33, "a Transpose that keeps the order",
         text("(float[N,3] x) => (float[N,3] y) { a = Transpose<perm = [0, 1]>(x)  y = Relu(a) }"), gone("Transpose")),
    Case(33, "a Transpose of one axis",
         text("(float[N] x) => (float[N] y) { a = Transpose(x)  y = Relu(a) }"), gone("Transpose")),
    Case(34, "there and back",
         text("(float[N,3,4,5] x) => (float[N,3,4,5] y)"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  b = Transpose<perm = [0, 3, 1, 2]>(a)  y = Relu(b) }"),
         gone("Transpose")),
    Case(34, "there and back, both without an order",
         text("(float[N,3,4] x) => (float[N,3,4] y) { a = Transpose(x)  b = Transpose(a)  y = Relu(b) }"),
         gone("Transpose")),
    Case(35, "two that make a third",
         text("(float[N,3,4,5] x) => (float[N,5,3,4] y)"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  y = Transpose<perm = [0, 2, 3, 1]>(a) }"), left(Transpose=1)),
    Case(36, "through Relu", _through(f"b = Relu(a)  {_BACK}", _SAME), gone("Transpose")),
    Case(36, "through a product with a constant of the last axis",
         _through(f"b = Mul(a, s)  {_BACK}", _SAME), gone("Transpose")),
    Case(36, "through a chain that branches and joins",
         _through(f"c = Sigmoid(a)  d = Mul(a, c)  b = Add(d, s)  {_BACK}", _SAME), gone("Transpose")),
    Case(36, "through a reduction that keeps its axes",
         _through("b = ReduceMax<keepdims = 1>(a, i)  y = Transpose<perm = [0, 3, 1, 2]>(b)", "N,3,1,1").replace(
             _SIZES, "<int64[2] i = {1, 2}>"), gone("Transpose")),
    Case(36, "through a reduction that drops its axes",
         text("(float[N,3,4,5] x) => (float[N,3] y) <int64[2] i = {1, 2}>"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  y = ReduceMean<keepdims = 0>(a, i) }"), gone("Transpose")),
    Case(36, "through Concat",
         text("(float[N,3,4,5] x, float[N,2,4,5] z) => (float[N,5,4,5] y)"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  b = Transpose<perm = [0, 2, 3, 1]>(z)"
              "  c = Concat<axis = 3>(a, b)  y = Transpose<perm = [0, 3, 1, 2]>(c) }"), gone("Transpose")),
    Case(36, "through Split",
         text("(float[N,4,4,5] x) => (float[N,2,4,5] y, float[N,2,4,5] z)"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  b, c = Split<axis = 3, num_outputs = 2>(a)"
              "  y = Transpose<perm = [0, 3, 1, 2]>(b)  d = Transpose<perm = [0, 3, 1, 2]>(c)  z = Relu(d) }"),
         gone("Transpose")),
    Case(36, "through Pad",
         _through("b = Pad(a, p)  y = Transpose<perm = [0, 3, 1, 2]>(b)", "N,3,6,7").replace(
             _SIZES, "<int64[8] p = {0, 1, 1, 0, 0, 1, 1, 0}>"), gone("Transpose")),
    Case(36, "through Softmax over the channels", _through(f"b = Softmax<axis = 3>(a)  {_BACK}", _SAME), gone("Transpose")),
    Case(36, "through QuantizeLinear and DequantizeLinear",
         text("(float[N,3,4,5] x) => (float[N,3,4,5] y) <float s = {0.1}, uint8 z = {128}>"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  b = QuantizeLinear(a, s, z)  c = DequantizeLinear(b, s, z)"
              "  d = Relu(c)  y = Transpose<perm = [0, 3, 1, 2]>(d) }"), gone("Transpose")),
    Case(36, "through Slice and Squeeze",
         text("(float[N,3,4,5] x) => (float[N,3,4] y) <int64[1] i = {2}, int64[1] j = {3}, int64[1] k = {2}>"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  b = Slice(a, i, j, k)  c = Squeeze(b, k)"
              "  y = Transpose<perm = [0, 2, 1]>(c) }"), gone("Transpose")),
    Case(37, "only axes of size 1 move",
         text("(float[N,1,4,5] x) => (float[N,4,5,1] y) { a = Transpose<perm = [0, 2, 3, 1]>(x)  y = Relu(a) }"),
         gone("Transpose")),
    Case(37, "only axes of size 1 move, and a Reshape follows",
         text("(float[N,6,1,1] x) => (float[N,6] y) <int64[2] s = {-1, 6}>"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  b = Reshape(a, s)  y = Relu(b) }"), gone("Transpose")),
    Case(38, "around a Squeeze",
         text("(float[N,3,4,1] x) => (float[N,3,4] y) <int64[1] i = {2}>"
              " { a = Transpose<perm = [0, 2, 3, 1]>(x)  b = Squeeze(a, i)  c = Transpose<perm = [0, 2, 1]>(b)"
              "  y = Relu(c) }"), gone("Transpose")),
    Case(38, "around a Reshape that splits an axis and one that joins it",
         text("(float[N,6,4] x) => (float[N,6,4] y) <int64[4] s = {0, 0, 2, 3}, int64[3] t = {0, 6, 4}>"
              " { a = Transpose<perm = [0, 2, 1]>(x)  b = Reshape(a, s)  c = Transpose<perm = [0, 2, 3, 1]>(b)"
              "  d = Reshape(c, t)  y = Relu(d) }"), gone("Transpose")),
    Case(39, "of the first operand of Gemm",
         text("(float[4,N] x) => (float[N,3] y) <float[4,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},"
              " float[3] b = {1, 2, 3}> { a = Transpose<perm = [1, 0]>(x)  y = Gemm(a, w, b) }"), gone("Transpose")),
    Case(39, "of both operands of Gemm",
         text("(float[4,N] x, float[3,4] z) => (float[N,3] y)"
              " { a = Transpose(x)  b = Transpose(z)  y = Gemm(a, b) }"), gone("Transpose")),
    Case(39, "of an operand that Gemm transposes",
         text("(float[N,4] x, float[3,4] z) => (float[N,3] y)"
              " { a = Transpose(x)  b = Transpose(z)  y = Gemm<transA = 1>(a, b) }"), gone("Transpose")),
]  # fmt: skip
