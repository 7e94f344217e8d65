"""Section 5: Slice, Gather, Split, Concat, Pad, Scatter, Resize."""

from __future__ import annotations

from tests.bench.micro.case import Case, gone, left, text

_FOCUS = text(
    "(float[N,3,8,8] x) => (float[N,12,4,4] y) <int64[1] o = {0}, int64[1] i = {1}, int64[1] e = {9223372036854775807},"
    " int64[1] h = {2}, int64[1] w = {3}, int64[1] t = {2}>"
    " { a = Slice(x, o, e, h, t)  p = Slice(a, o, e, w, t)  b = Slice(x, i, e, h, t)  q = Slice(b, o, e, w, t)"
    "  c = Slice(x, o, e, h, t)  r = Slice(c, i, e, w, t)  d = Slice(x, i, e, h, t)  s = Slice(d, i, e, w, t)"
    "  y = Concat<axis = 1>(p, q, r, s) }"
)

CASES = [
    Case(57, "a Slice of everything",
         text("(float[N,4] x) => (float[N,4] y) <int64[1] s = {0}, int64[1] e = {9223372036854775807}, int64[1] a = {1}>"
              " { b = Slice(x, s, e, a)  y = Relu(b) }"), gone("Slice")),
    Case(57, "a Slice of everything, up to the size",
         text("(float[N,4] x) => (float[N,4] y) <int64[1] s = {-4}, int64[1] e = {4}, int64[1] a = {-1}, int64[1] t = {1}>"
              " { b = Slice(x, s, e, a, t)  y = Relu(b) }"), gone("Slice")),
    Case(57, "a Slice of everything before opset 10",
         text("(float[N,4] x) => (float[N,4] y) { b = Slice<axes = [0], starts = [0], ends = [9223372036854775807]>(x)"
              "  y = Relu(b) }", 9), gone("Slice")),
    Case(58, "two Slices of different axes",
         text("(float[N,8,8] x) => (float[N,2,3] y) <int64[1] s = {1}, int64[1] e = {3}, int64[1] a = {1},"
              " int64[1] f = {4}, int64[1] b = {2}> { c = Slice(x, s, e, a)  y = Slice(c, s, f, b) }"), left(Slice=1)),
    Case(59, "two Slices of one axis",
         text("(float[N,8] x) => (float[N,2] y) <int64[1] s = {1}, int64[1] e = {7}, int64[1] a = {1},"
              " int64[1] f = {3}> { c = Slice(x, s, e, a)  y = Slice(c, s, f, a) }"), left(Slice=1)),
    Case(59, "two Slices of one axis, with steps",
         text("(float[N,16] x) => (float[N,3] y) <int64[1] s = {1}, int64[1] e = {-1}, int64[1] a = {1},"
              " int64[1] f = {6}, int64[1] t = {2}> { c = Slice(x, s, e, a, t)  y = Slice(c, s, f, a, t) }"), left(Slice=1)),
    Case(60, "two Slices that share out an axis",
         text("(float[N,8] x) => (float[N,4] y, float[N,4] z) <int64[1] s = {0}, int64[1] e = {4}, int64[1] f = {8},"
              " int64[1] a = {1}> { y = Slice(x, s, e, a)  z = Slice(x, e, f, a) }"), left(Slice=0, Split=1)),
    Case(60, "three Slices that share out an axis, the last to its end",
         text("(float[N,8] x) => (float[N,1] y, float[N,3] z, float[N,4] w) <int64[1] s = {0}, int64[1] e = {1},"
              " int64[1] f = {-4}, int64[1] g = {9223372036854775807}, int64[1] a = {-1}>"
              " { b = Slice(x, s, e, a)  z = Slice(x, e, f, a)  w = Slice(x, f, g, a)  y = Relu(b) }"),
         left(Slice=0, Split=1)),
    Case(61, "Gather of a range of indices",
         text("(float[N,8] x) => (float[N,3] y) <int64[3] i = {2, 3, 4}> { a = Gather<axis = 1>(x, i)  y = Relu(a) }"),
         left(Gather=0, Slice=1)),
    Case(61, "Gather of every other index",
         text("(float[N,8] x) => (float[N,3] y) <int64[3] i = {1, 3, 5}> { a = Gather<axis = 1>(x, i)  y = Relu(a) }"),
         left(Gather=0, Slice=1)),
    Case(61, "Gather of all indices",
         text("(float[N,3] x) => (float[N,3] y) <int64[3] i = {0, 1, 2}> { a = Gather<axis = 1>(x, i)  y = Relu(a) }"),
         gone("Gather", "Slice")),
    Case(61, "GatherND of rows",
         text("(float[3,4,5] x) => (float[2,4,5] y) <int64[2,1] i = {2, 0}> { a = GatherND(x, i)  y = Relu(a) }"),
         gone("GatherND")),
    Case(62, "Gathers of parts of a Split, joined",
         text("(float[N,6] x) => (float[N,3] y) <int64[1] i = {1}, int64[1] j = {0}, int64[1] k = {1}>"
              " { p, q, r = Split<axis = 1, num_outputs = 3>(x)  a = Gather<axis = 1>(p, i)  b = Gather<axis = 1>(q, j)"
              "  c = Gather<axis = 1>(r, k)  y = Concat<axis = 1>(b, a, c) }"), left(Split=0, Gather=1, Concat=0)),
    Case(62, "single elements gathered and joined",
         text("(float[N,6] x) => (float[N,3] y) <int64[1] i = {1}, int64[1] j = {5}, int64[1] k = {0}>"
              " { a = Gather<axis = 1>(x, i)  b = Gather<axis = 1>(x, j)  c = Gather<axis = 1>(x, k)"
              "  y = Concat<axis = 1>(b, a, c) }"), left(Gather=1, Concat=0)),
    Case(63, "Gather within one operand of a Concat",
         text("(float[N,4] x, float[N,4] z) => (float[N,2] y) <int64[2] i = {5, 7}>"
              " { c = Concat<axis = 1>(x, z)  y = Gather<axis = 1>(c, i) }"), gone("Concat")),
    Case(64, "Slice within one operand of a Concat",
         text("(float[N,4] x, float[N,4] z) => (float[N,2] y) <int64[1] s = {5}, int64[1] e = {7}, int64[1] a = {1}>"
              " { c = Concat<axis = 1>(x, z)  y = Slice(c, s, e, a) }"), left(Concat=0, Slice=1)),
    Case(64, "Slice of one whole operand of a Concat",
         text("(float[N,4] x, float[N,4] z) => (float[N,4] y) <int64[1] s = {4}, int64[1] e = {8}, int64[1] a = {1}>"
              " { c = Concat<axis = 1>(x, z)  b = Slice(c, s, e, a)  y = Relu(b) }"), gone("Concat", "Slice")),
    Case(64, "Slice of two of three operands of a Concat",
         text("(float[N,4] x, float[N,4] z, float[N,4] w) => (float[N,8] y) <int64[1] s = {4}, int64[1] e = {12},"
              " int64[1] a = {1}> { c = Concat<axis = 1>(x, z, w)  y = Slice(c, s, e, a) }"), left(Concat=1, Slice=0)),
    Case(65, "Split and Concat",
         text("(float[N,6] x) => (float[N,6] y) { p, q, r = Split<axis = 1, num_outputs = 3>(x)"
              "  a = Concat<axis = 1>(p, q, r)  y = Relu(a) }"), gone("Split", "Concat")),
    Case(65, "Concat and Split",
         text("(float[N,4] x, float[N,2] z) => (float[N,4] y, float[N,2] w) <int64[2] s = {4, 2}>"
              " { c = Concat<axis = 1>(x, z)  p, q = Split<axis = 1>(c, s)  y = Relu(p)  w = Relu(q) }"),
         gone("Split", "Concat")),
    Case(65, "neighbouring parts of a Split, joined",
         text("(float[N,6] x) => (float[N,4] y, float[N,2] z) { p, q, r = Split<axis = 1, num_outputs = 3>(x)"
              "  a = Concat<axis = 1>(p, q)  y = Relu(a)  z = Exp(r) }"), left(Concat=0, Split=1)),
    Case(65, "Slices of one tensor, joined as they lay",
         text("(float[N,8] x) => (float[N,8] y) <int64[1] s = {0}, int64[1] e = {3}, int64[1] f = {8}, int64[1] a = {1}>"
              " { p = Slice(x, s, e, a)  q = Slice(x, e, f, a)  c = Concat<axis = 1>(p, q)  y = Relu(c) }"),
         gone("Slice", "Concat")),
    Case(66, "Concat of one", text("(float[N,4] x) => (float[N,4] y) { a = Concat<axis = 1>(x)  y = Relu(a) }"), gone("Concat")),
    Case(67, "Concat with an empty part",
         text("(float[N,4] x, float[N,0] z) => (float[N,4] y) { a = Concat<axis = 1>(x, z)  y = Relu(a) }"), gone("Concat")),
    Case(68, "Concat of a Concat",
         text("(float[N,4] x, float[N,4] z) => (float[N,12] y) { a = Concat<axis = 1>(x, z)  y = Concat<axis = -1>(a, x) }"),
         left(Concat=1)),
    Case(68, "Concat of a Concat with the same values twice",
         text("(float[N,4] x, float[N,4] z) => (float[N,8] y, float[N,12] w)"
              " { y = Concat<axis = 1>(x, z)  w = Concat<axis = 1>(x, z, x) }"), left(Concat=2)),
    Case(69, "Split into one", text("(float[N,4] x) => (float[N,4] y) { a = Split<axis = 1, num_outputs = 1>(x)  y = Relu(a) }"),
         gone("Split")),
    Case(69, "Split with an empty part",
         text("(float[N,4] x) => (float[N,4] y) <int64[2] s = {4, 0}> { a, b = Split<axis = 1>(x, s)  y = Relu(a) }"),
         gone("Split")),
    Case(70, "Pad by nothing",
         text("(float[N,4] x) => (float[N,4] y) <int64[4] p = {0, 0, 0, 0}> { a = Pad(x, p)  y = Relu(a) }"), gone("Pad")),
    Case(70, "reflecting Pad by nothing",
         text("(float[N,4] x) => (float[N,4] y) <int64[4] p = {0, 0, 0, 0}> { a = Pad<mode = \"reflect\">(x, p)  y = Relu(a) }"),
         gone("Pad")),
    Case(71, "Pad before Conv",
         text("(float[1,2,8,8] x, float[2,2,3,3] w) => (float[1,2,8,8] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>"
              " { a = Pad(x, p)  y = Conv(a, w) }"), left(Pad=0, Conv=1)),
    Case(71, "Pad before Conv before opset 11",
         text("(float[1,2,8,8] x, float[2,2,3,3] w) => (float[1,2,8,8] y)"
              " { a = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1]>(x)  y = Conv(a, w) }", 10), left(Pad=0, Conv=1)),
    Case(71, "Pad before ConvInteger",
         text("(uint8[1,2,8,8] x, uint8[2,2,3,3] w) => (int32[1,2,8,8] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>"
              " { a = Pad(x, p)  y = ConvInteger(a, w) }"), left(Pad=0, ConvInteger=1)),
    Case(72, "Pad with -inf before MaxPool",
         text("(float[1,2,8,8] x) => (float[1,2,8,8] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>"
              " { v = Constant<value_float = -inf>()  a = Pad(x, p, v)  y = MaxPool<kernel_shape = [3, 3]>(a) }"),
         left(Pad=0, MaxPool=1), level="O3"),
    Case(72, "Pad with 0 before MaxPool",
         text("(float[1,2,8,8] x) => (float[1,2,8,8] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>"
              " { a = Pad(x, p)  y = MaxPool<kernel_shape = [3, 3]>(a) }"), gone("Pad"),
         unsound="negative elements are smaller than the padding"),
    Case(72, "Pad with 0 before MaxPool, of what is not negative",
         text("(float[1,2,8,8] x) => (float[1,2,8,8] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>"
              " { r = Relu(x)  a = Pad(r, p)  y = MaxPool<kernel_shape = [3, 3]>(a) }"), gone("Pad"), level="O3"),
    Case(73, "Pad before AveragePool that counts the padding",
         text("(float[1,2,8,8] x) => (float[1,2,8,8] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>"
              " { a = Pad(x, p)  y = AveragePool<kernel_shape = [3, 3], count_include_pad = 1>(a) }"), gone("Pad")),
    Case(73, "Pad before AveragePool without padding",
         text("(float[1,2,8,8] x) => (float[1,2,8,8] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>"
              " { a = Pad(x, p)  y = AveragePool<kernel_shape = [3, 3]>(a) }"), gone("Pad")),
    Case(74, "ScatterND that writes everything",
         text("(float[3,4] x, float[3,4] u) => (float[3,4] y) <int64[3,1] i = {0, 1, 2}>"
              " { a = ScatterND(x, i, u)  y = Relu(a) }"), gone("ScatterND")),
    Case(74, "ScatterND that writes every row, in another order",
         text("(float[3,4] x, float[3,4] u) => (float[3,4] y) <int64[3,1] i = {2, 0, 1}>"
              " { a = ScatterND(x, i, u)  y = Relu(a) }"), left(ScatterND=0, Gather=1)),
    Case(74, "ScatterND that writes all elements",
         text("(float[2,2] x, float[2,2] u) => (float[2,2] y) <int64[2,2,2] i = {0, 0, 0, 1, 1, 0, 1, 1}>"
              " { a = ScatterND(x, i, u)  y = Relu(a) }"), gone("ScatterND")),
    Case(75, "Slices and Concat of a focus layer", _FOCUS, left(SpaceToDepth=1, Slice=0)),
    Case(76, "Resize by 1",
         text("(float[N,2,4,4] x) => (float[N,2,4,4] y) <float[4] s = {1, 1, 1, 1}> { a = Resize(x, , s)  y = Relu(a) }"),
         gone("Resize")),
    Case(76, "linear Resize by 1",
         text("(float[N,2,4,4] x) => (float[N,2,4,4] y) <float[4] s = {1, 1, 1, 1}>"
              " { a = Resize<mode = \"linear\">(x, , s)  y = Relu(a) }"), gone("Resize"), level="O3"),
    Case(76, "linear Resize by 1, beside an infinity",
         text("(float[N,2,4,4] x) => (float[N,2,4,4] y) <float[4] s = {1, 1, 1, 1}>"
              " { a = Resize<mode = \"linear\">(x, , s)  y = Relu(a) }"), gone("Resize"),
         unsound="0 times an infinite neighbour is NaN"),
    Case(76, "Resize to the size that it has",
         text("(float[1,2,4,4] x) => (float[1,2,4,4] y) <int64[4] s = {1, 2, 4, 4}>"
              " { a = Resize(x, , , s)  y = Relu(a) }"), gone("Resize")),
    Case(76, "Upsample by 1",
         text("(float[N,2,4,4] x) => (float[N,2,4,4] y) <float[4] s = {1, 1, 1, 1}> { a = Upsample(x, s)  y = Relu(a) }", 9),
         gone("Upsample")),
    Case(76, "Resize of opset 10",
         text("(float[N,2,4,4] x) => (float[N,2,4,4] y) <float[4] s = {1, 1, 1, 1}> { a = Resize(x, s)  y = Relu(a) }", 10),
         gone("Resize")),
]
