"""Section 2: casts."""

from __future__ import annotations

from tests.bench.micro.case import Case, gone, left, text

CASES = [
    Case(29, "to the same type", text("(float[N,4] x) => (float[N,4] y) { a = Cast<to = 1>(x)  y = Relu(a) }"),
         gone("Cast")),
    Case(30, "widen, then back", text("(float16[N,4] x) => (float16[N,4] y) { a = Cast<to = 1>(x)  y = Cast<to = 10>(a) }"),
         gone("Cast")),
    Case(30, "widen twice", text("(float16[N,4] x) => (double[N,4] y) { a = Cast<to = 1>(x)  y = Cast<to = 11>(a) }"),
         left(Cast=1)),
    Case(30, "narrow, then back", text("(float[N,4] x) => (float[N,4] y) { a = Cast<to = 10>(x)  y = Cast<to = 1>(a) }"),
         gone("Cast"), unsound="digits are lost in between"),
    Case(30, "int32 to int64 to float",
         text("(int32[N,4] x) => (float[N,4] y) { a = Cast<to = 7>(x)  y = Cast<to = 1>(a) }"), left(Cast=1)),
    Case(30, "bool to float to bool",
         text("(bool[N,4] x) => (bool[N,4] y) { a = Cast<to = 1>(x)  y = Cast<to = 9>(a) }"), gone("Cast")),
    Case(30, "CastLike to a known type",
         text("(int32[N,4] x, float[1] z) => (float[N,4] y) { y = CastLike(x, z) }"), left(CastLike=0, Cast=1)),
    Case(31, "of ConstantOfShape",
         text("(int64[2] s) => (int64[A,B] y) { a = ConstantOfShape<value = float[1] {3}>(s)  y = Cast<to = 7>(a) }"),
         left(Cast=0, ConstantOfShape=1)),
    Case(31, "of a default ConstantOfShape",
         text("(int64[2] s) => (bool[A,B] y) { a = ConstantOfShape(s)  y = Cast<to = 9>(a) }"),
         left(Cast=0, ConstantOfShape=1)),
    Case(32, "behind a Concat of casts",
         text("(int32[N,2] x, int32[N,2] z) => (float[N,4] y)"
              " { a = Cast<to = 1>(x)  b = Cast<to = 1>(z)  y = Concat<axis = 1>(a, b) }"), left(Cast=1)),
    Case(32, "between casts that cancel around a Reshape",
         text("(float16[N,4] x) => (float16[N,2,2] y) <int64[3] s = {0, 2, 2}>"
              " { a = Cast<to = 1>(x)  b = Reshape(a, s)  y = Cast<to = 10>(b) }"), gone("Cast")),
    Case(32, "between casts that cancel around a Transpose",
         text("(float16[N,4] x) => (float16[4,N] y)"
              " { a = Cast<to = 1>(x)  b = Transpose<perm = [1, 0]>(a)  y = Cast<to = 10>(b) }"), gone("Cast")),
]
