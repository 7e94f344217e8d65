"""Section 4: Reshape, Squeeze, Unsqueeze, Flatten, Expand, Tile."""

from __future__ import annotations

from tests.bench.micro.case import Case, gone, left, text

CASES = [
    Case(43, "Reshape to the shape that it has",
         text("(float[N,4] x) => (float[N,4] y) <int64[2] s = {-1, 4}> { a = Reshape(x, s)  y = Relu(a) }"),
         gone("Reshape")),
    Case(43, "Reshape to its own Shape",
         text("(float[N,M] x) => (float[N,M] y) { s = Shape(x)  a = Reshape(x, s)  y = Relu(a) }"), gone("Reshape", "Shape")),
    Case(44, "two Reshapes",
         text("(float[N,4] x) => (float[A,2] y) <int64[3] s = {0, 2, 2}, int64[2] t = {-1, 2}>"
              " { a = Reshape(x, s)  y = Reshape(a, t) }"), left(Reshape=1)),
    Case(44, "two Reshapes, the second copies a size",
         text("(float[2,4] x) => (float[4,2] y) <int64[3] s = {4, 2, 1}, int64[2] t = {0, 2}>"
              " { a = Reshape(x, s)  y = Reshape(a, t) }"), left(Reshape=1)),
    Case(45, "a target of Shape, Gather and Concat",
         text("(float[N,6] x) => (float[N,2,3] y) <int64[1] i = {0}, int64[2] t = {2, 3}>"
              " { s = Shape(x)  a = Gather(s, i)  c = Concat<axis = 0>(a, t)  y = Reshape(x, c) }"),
         gone("Shape", "Gather", "Concat")),
    Case(46, "two Unsqueezes",
         text("(float[N,4] x) => (float[1,N,4,1] y) <int64[1] a = {0}, int64[1] b = {-1}>"
              " { c = Unsqueeze(x, a)  y = Unsqueeze(c, b) }"), left(Unsqueeze=1)),
    Case(46, "two Unsqueezes before opset 13",
         text("(float[N,4] x) => (float[1,N,4,1] y) { c = Unsqueeze<axes = [0]>(x)  y = Unsqueeze<axes = [3]>(c) }", 11),
         left(Unsqueeze=1)),
    Case(47, "two Squeezes",
         text("(float[1,N,4,1] x) => (float[N,4] y) <int64[1] a = {0}, int64[1] b = {-1}>"
              " { c = Squeeze(x, a)  y = Squeeze(c, b) }"), left(Squeeze=1)),
    Case(48, "Squeeze and Unsqueeze",
         text("(float[N,1,4] x) => (float[N,1,4] y) <int64[1] a = {1}> { c = Squeeze(x, a)  d = Unsqueeze(c, a)  y = Relu(d) }"),
         gone("Squeeze", "Unsqueeze")),
    Case(48, "Unsqueeze and Squeeze",
         text("(float[N,M] x) => (float[N,M] y) <int64[1] a = {1}, int64[1] b = {-2}>"
              " { c = Unsqueeze(x, a)  d = Squeeze(c, b)  y = Relu(d) }"), gone("Squeeze", "Unsqueeze")),
    Case(48, "Unsqueeze and Squeeze of another axis",
         text("(float[N,1] x) => (float[1,N] y) <int64[1] a = {0}, int64[1] b = {2}> { c = Unsqueeze(x, a)  y = Squeeze(c, b) }"),
         lambda m: sum(n.op_type in ("Squeeze", "Unsqueeze", "Reshape") for n in m.graph.node) == 1),
    Case(49, "Flatten, Unsqueeze, Reshape",
         text("(float[N,2,2] x) => (float[A,2] y) <int64[1] a = {0}, int64[2] t = {-1, 2}>"
              " { c = Flatten(x)  d = Unsqueeze(c, a)  y = Reshape(d, t) }"), left(Flatten=0, Unsqueeze=0, Reshape=1)),
    Case(50, "Reshapes that cancel around an elementwise operator",
         text("(float[N,4] x) => (float[N,4] y) <int64[3] s = {0, 2, 2}, int64[2] t = {0, 4}>"
              " { a = Reshape(x, s)  b = Exp(a)  y = Reshape(b, t) }"), left(Reshape=0, Exp=1)),
    Case(50, "Unsqueeze and Squeeze around an elementwise operator",
         text("(float[N,M] x) => (float[N,M] y) <int64[1] a = {0}> { b = Unsqueeze(x, a)  c = Exp(b)  y = Squeeze(c, a) }"),
         left(Unsqueeze=0, Squeeze=0, Exp=1)),
    Case(50, "Reshapes that cancel around two elementwise operators",
         text("(float[N,4] x) => (float[N,4] y) <int64[3] s = {0, 2, 2}, int64[2] t = {0, 4}, float k = {3}>"
              " { a = Reshape(x, s)  b = Exp(a)  c = Mul(b, k)  y = Reshape(c, t) }"), left(Reshape=0)),
    Case(50, "Reshapes that cancel around a sum",
         text("(float[2,4] x, float[2,4] z) => (float[2,4] y) <int64[3] s = {2, 2, 2}, int64[2] t = {2, 4}>"
              " { a = Reshape(x, s)  c = Reshape(z, s)  b = Add(a, c)  y = Reshape(b, t) }"), left(Reshape=0, Add=1)),
    Case(51, "MatMul between Reshapes",
         text("(float[2,3,4] x, float[4,5] w) => (float[2,3,5] y) <int64[2] s = {6, 4}, int64[3] t = {2, 3, 5}>"
              " { a = Reshape(x, s)  b = MatMul(a, w)  y = Reshape(b, t) }"), left(Reshape=0, MatMul=1)),
    Case(52, "Flatten of a matrix", text("(float[N,4] x) => (float[N,4] y) { a = Flatten(x)  y = Relu(a) }"), gone("Flatten")),
    Case(53, "Expand by 1", text("(float[N,4] x) => (float[N,4] y) <int64[2] s = {1, 1}> { a = Expand(x, s)  y = Relu(a) }"),
         gone("Expand")),
    Case(53, "Expand to its own Shape",
         text("(float[N,M] x) => (float[N,M] y) { s = Shape(x)  a = Expand(x, s)  y = Relu(a) }"), gone("Expand", "Shape")),
    Case(54, "Expand before Add",
         text("(float[1,4] x, float[3,4] z) => (float[3,4] y) <int64[2] s = {3, 4}> { a = Expand(x, s)  y = Add(z, a) }"),
         gone("Expand")),
    Case(54, "Expand that raises the rank, before Where",
         text("(bool[4] c, float[3,4] x, float[3,4] z) => (float[3,4] y) <int64[2] s = {3, 4}>"
              " { a = Expand(c, s)  y = Where(a, x, z) }"), gone("Expand")),
    Case(54, "Expand of a scalar that both operands need",
         text("(float x, float[1,4] z) => (float[3,4] y) <int64[2] s = {3, 4}> { a = Expand(x, s)  y = Mul(z, a) }"),
         gone("Expand"), unsound="the result takes its size from it"),
    Case(55, "Tile by 1", text("(float[N,4] x) => (float[N,4] y) <int64[2] s = {1, 1}> { a = Tile(x, s)  y = Relu(a) }"),
         gone("Tile")),
    Case(55, "Tile before Add, of an axis of size 1",
         text("(float[1,4] x, float[3,4] z) => (float[3,4] y) <int64[2] s = {3, 1}> { a = Tile(x, s)  y = Add(z, a) }"),
         gone("Tile")),
    Case(56, "to SpaceToDepth",
         text("(float[N,8,4,6] x) => (float[N,32,2,3] y) <int64[6] s = {0, 8, 2, 2, 3, 2}, int64[4] t = {0, 32, 2, 3}>"
              " { a = Reshape(x, s)  b = Transpose<perm = [0, 3, 5, 1, 2, 4]>(a)  y = Reshape(b, t) }"),
         left(SpaceToDepth=1, Transpose=0, Reshape=0)),
    Case(56, "to DepthToSpace, DCR",
         text("(float[N,8,4,6] x) => (float[N,2,8,12] y) <int64[6] s = {0, 2, 2, 2, 4, 6}, int64[4] t = {0, 2, 8, 12}>"
              " { a = Reshape(x, s)  b = Transpose<perm = [0, 3, 4, 1, 5, 2]>(a)  y = Reshape(b, t) }"),
         left(DepthToSpace=1, Transpose=0, Reshape=0)),
    Case(56, "to DepthToSpace, CRD (pixel shuffle)",
         text("(float[N,8,4,6] x) => (float[N,2,8,12] y) <int64[6] s = {-1, 2, 2, 2, 4, 6}, int64[4] t = {-1, 2, 8, 12}>"
              " { a = Reshape(x, s)  b = Transpose<perm = [0, 1, 4, 2, 5, 3]>(a)  y = Reshape(b, t) }"),
         left(DepthToSpace=1, Transpose=0, Reshape=0)),
    Case(56, "DepthToSpace and SpaceToDepth",
         text("(float[N,8,4,6] x) => (float[N,8,4,6] y)"
              " { a = DepthToSpace<blocksize = 2>(x)  b = SpaceToDepth<blocksize = 2>(a)  y = Relu(b) }"),
         gone("DepthToSpace", "SpaceToDepth")),
]
