"""Section 1: dead code, constants, sequences and optionals, equal expressions."""

from __future__ import annotations

from tests.bench.micro.case import Case, gone, left, text

CASES = [
    Case(1, "Identity", text("(float[N,4] x) => (float[N,4] y) { a = Relu(x)  b = Identity(a)  y = Exp(b) }"),
         gone("Identity")),
    Case(2, "Dropout without training input",
         text("(float[N,4] x) => (float[N,4] y) <float r = {0.5}> { a = Relu(x)  b = Dropout(a, r)  y = Exp(b) }"),
         gone("Dropout")),
    Case(2, "Dropout, training false",
         text("(float[N,4] x) => (float[N,4] y) <float r = {0.5}, bool t = {0}>"
              " { a = Relu(x)  b = Dropout(a, r, t)  y = Exp(b) }"), gone("Dropout")),
    Case(2, "Dropout, training true",
         text("(float[N,4] x) => (float[N,4] y) <float r = {0}, bool t = {1}>"
              " { a = Relu(x)  b = Dropout(a, r, t)  y = Exp(b) }"), gone("Dropout"),
         unsound="it is in training"),
    Case(3, "a dead node", text("(float[N,4] x) => (float[N,4] y) { a = Exp(x)  b = Log(a)  y = Relu(x) }"),
         gone("Exp", "Log")),
    Case(4, "Split of which the middle is dead, joined again",
         text("(float[N,6] x) => (float[N,4] y) { a, b, c = Split<axis = 1, num_outputs = 3>(x)  y = Concat<axis = 1>(a, c) }"),
         left(Split=0, Concat=0, Gather=1)),
    Case(4, "Split of which the last parts are dead",
         text("(float[N,8] x) => (float[N,2] y, float[N,2] z) <int64[4] s = {2, 2, 2, 2}>"
              " { a, b, c, d = Split<axis = 1>(x, s)  y = Relu(a)  z = Exp(b) }"),
         lambda m: sum(len([o for o in n.output if o]) for n in m.graph.node if n.op_type == "Split") < 4),
    Case(4, "Split of which one part is read",
         text("(float[N,6] x) => (float[N,2] y) { a, b, c = Split<axis = 1, num_outputs = 3>(x)  y = Relu(b) }"),
         left(Split=0, Slice=1)),
    Case(4, "MaxPool whose indices nobody reads",
         text("(float[1,2,8,8] x) => (float[1,2,4,4] y) { a, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)"
              "  y = Relu(a) }"),
         lambda m: all(len(n.output) == 1 for n in m.graph.node if n.op_type == "MaxPool"), level="O3"),
    Case(4, "Dropout whose mask nobody reads",
         text("(float[N,4] x) => (float[N,4] y) { a, m = Dropout(x)  y = Exp(a) }"), gone("Dropout")),
    Case(4, "LayerNormalization whose statistics nobody reads",
         text("(float[N,4] x, float[4] s) => (float[N,4] y) { a, m, d = LayerNormalization(x, s)  y = Relu(a) }"),
         lambda m: all(len(n.output) == 1 for n in m.graph.node if n.op_type == "LayerNormalization")),
    Case(4, "GRU whose last state nobody reads",
         text("(float[S,B,3] x, float[1,6,3] w, float[1,6,2] r) => (float[S,1,B,2] y)"
              " { a, h = GRU<hidden_size = 2>(x, w, r)  y = Relu(a) }"),
         lambda m: all(len(n.output) == 1 for n in m.graph.node if n.op_type == "GRU")),
    Case(5, "an initializer that nobody reads",
         text("(float[N,4] x) => (float[N,4] y) <float[2] w = {1, 2}> { y = Relu(x) }"),
         lambda m: not m.graph.initializer),
    Case(6, "equal initializers",
         text("(float[N,2] x) => (float[N,2] y) <float[2] w = {1.5, 2}, float[2] v = {1.5, 2}>"
              " { a = Add(x, w)  b = Relu(a)  y = Mul(b, v) }"), lambda m: len(m.graph.initializer) == 1),
    Case(7, "Constant nodes",
         text("(float[N,2] x) => (float[N,2] y) { w = Constant<value = float[2] {1.5, 2}>()  y = Mul(x, w) }"),
         gone("Constant")),
    Case(9, "arithmetic of constants",
         text("(float[N,2] x) => (float[N,2] y) <float[2] w = {1.5, 2}> { a = Exp(w)  b = Sin(a)  y = Mul(x, b) }"),
         gone("Exp")),
    Case(11, "ConstantOfShape",
         text("(float[N,2] x) => (float[N,2] y) <int64[1] s = {2}>"
              " { a = ConstantOfShape<value = float[1] {3}>(s)  y = Mul(x, a) }"), gone("ConstantOfShape")),
    Case(12, "Transpose of a weight",
         text("(float[N,2] x) => (float[N,3] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}>"
              " { a = Transpose<perm = [1, 0]>(w)  y = MatMul(x, a) }"), gone("Transpose")),
    Case(13, "Shape of a static tensor",
         text("(float[2,6] x, float[12] z) => (float[2,6] y) { s = Shape(x)  y = Reshape(z, s) }"), gone("Shape")),
    Case(14, "the static part of a dynamic Shape",
         text("(float[N,6] x) => (int64[1] y) <int64[1] b = {1}, int64[1] e = {2}> { s = Shape(x)  y = Slice(s, b, e) }"),
         gone("Shape")),
    Case(15, "elements of a Shape put together again",
         text("(float[N,6] x) => (float[N,2,3] y) <int64 i = {0}, int64[1] u = {0}, int64[2] t = {2, 3}>"
              " { s = Shape(x)  a = Gather(s, i)  b = Unsqueeze(a, u)  c = Concat<axis = 0>(b, t)  y = Reshape(x, c) }"),
         gone("Shape", "Gather", "Unsqueeze", "Concat")),
    Case(20, "SequenceAt of SequenceConstruct",
         text("(float[N,4] x, float[N,4] z) => (float[N,4] y) <int64 i = {1}>"
              " { s = SequenceConstruct(x, z)  a = SequenceAt(s, i)  y = Relu(a) }"),
         gone("SequenceConstruct", "SequenceAt")),
    Case(20, "SequenceAt from the end",
         text("(float[N,4] x, float[N,4] z) => (float[N,4] y) <int64 i = {-2}>"
              " { s = SequenceConstruct(x, z)  a = SequenceAt(s, i)  y = Relu(a) }"),
         gone("SequenceConstruct", "SequenceAt")),
    Case(20, "SequenceLength of SequenceConstruct",
         text("(float[N,4] x, float[N,4] z) => (int64 y) { s = SequenceConstruct(x, z)  y = SequenceLength(s) }"),
         gone("SequenceConstruct", "SequenceLength")),
    Case(20, "ConcatFromSequence of SequenceConstruct",
         text("(float[N,4] x, float[N,4] z) => (float[N,8] y)"
              " { s = SequenceConstruct(x, z)  y = ConcatFromSequence<axis = 1>(s) }"),
         left(SequenceConstruct=0, ConcatFromSequence=0, Concat=1)),
    Case(20, "ConcatFromSequence with a new axis",
         text("(float[2,4] x, float[2,4] z) => (float[2,2,4] y)"
              " { e = SequenceEmpty()  a = SequenceInsert(e, x)  b = SequenceInsert(a, z)"
              "  y = ConcatFromSequence<axis = 1, new_axis = 1>(b) }"),
         left(SequenceInsert=0, ConcatFromSequence=0, Concat=1)),
    Case(20, "SplitToSequence and SequenceAt",
         text("(float[N,4] x) => (float[N,2] y) <int64 p = {2}, int64 i = {1}>"
              " { s = SplitToSequence<axis = 1>(x, p)  a = SequenceAt(s, i)  y = Relu(a) }"),
         gone("SplitToSequence", "SequenceAt")),
    Case(20, "SplitToSequence read at all places",
         text("(float[N,3] x) => (float[N] y, float[N] z) <int64 i = {0}, int64 j = {2}>"
              " { s = SplitToSequence<axis = 1, keepdims = 0>(x)  y = SequenceAt(s, i)  z = SequenceAt(s, j) }"),
         gone("SplitToSequence", "SequenceAt")),
    Case(20, "SequenceEmpty and SequenceInsert",
         text("(float[N,4] x, float[N,4] z) => (float[N,8] y)"
              " { e = SequenceEmpty()  a = SequenceInsert(e, x)  b = SequenceInsert(a, z)"
              "  y = ConcatFromSequence<axis = 1>(b) }"),
         left(SequenceEmpty=0, SequenceInsert=0, ConcatFromSequence=0, Concat=1)),
    Case(20, "SequenceInsert at a place, SequenceErase",
         text("(float[N,4] x, float[N,4] z) => (float[N,4] y) <int64 o = {0}, int64 i = {1}>"
              " { e = SequenceConstruct(x)  a = SequenceInsert(e, z, o)  b = SequenceErase(a, i)"
              "  c = SequenceAt(b, o)  y = Relu(c) }"),
         gone("SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt")),
    Case(21, "OptionalGetElement of Optional",
         text("(float[N,4] x) => (float[N,4] y) { o = Optional(x)  a = OptionalGetElement(o)  y = Relu(a) }"),
         gone("Optional", "OptionalGetElement")),
    Case(21, "OptionalGetElement of a tensor",
         text("(float[N,4] x) => (float[N,4] y) { r = Exp(x)  a = OptionalGetElement(r)  y = Relu(a) }"),
         gone("OptionalGetElement")),
    Case(21, "OptionalHasElement of Optional",
         text("(float[N,4] x) => (bool y) { o = Optional(x)  y = OptionalHasElement(o) }"),
         gone("Optional", "OptionalHasElement")),
    Case(21, "OptionalHasElement of nothing", text("(float[N,4] x) => (bool y) { y = OptionalHasElement() }"),
         gone("OptionalHasElement")),
    Case(22, "equal expressions",
         text("(float[N,4] x) => (float[N,4] y) { a = Exp(x)  b = Exp(x)  y = Atan2(a, b) }".replace("Atan2", "Mul")),
         left(Exp=1)),
    Case(22, "random numbers",
         text("(float[2,4] x) => (float[2,4] y) { a = RandomNormalLike<seed = 1.0>(x)  b = RandomNormalLike<seed = 1.0>(x)"
              "  c = Sub(a, b)  d = Mul(c, x)  e = Sub(x, x)  f = Equal(c, e)  g = Not(f)  h = Cast<to = 1>(f)"
              "  i = Cast<to = 1>(g)  y = Add(h, i) }"), left(RandomNormalLike=1), unsound="they differ each time"),
    Case(23, "equal expressions of equal initializers",
         text("(float[N,2] x) => (float[N,2] y) <float[2] w = {1.5, 2}, float[2] v = {1.5, 2}>"
              " { a = Sub(x, w)  b = Sub(x, v)  c = Exp(a)  y = Mul(c, b) }"), left(Sub=1)),
    Case(24, "a default attribute and none",
         text("(float[N,4] x) => (float[N,4] y) { a = Softmax<axis = -1>(x)  b = Softmax(x)  c = Exp(a)  y = Mul(c, b) }"),
         left(Softmax=1)),
    Case(24, "a default attribute that depends on the rank",
         text("(float[N,4] x) => (float[4,N] y) { a = Transpose<perm = [1, 0]>(x)  b = Transpose(x)  c = Exp(a)"
              "  y = Mul(c, b) }"), left(Transpose=1)),
    Case(24, "an axis from the front and from the end",
         text("(float[N,4] x) => (float[N,4] y) { a = Softmax<axis = -1>(x)  b = Softmax<axis = 1>(x)  c = Exp(a)"
              "  y = Mul(c, b) }"), left(Softmax=1)),
    Case(24, "default strides and none",
         text("(float[1,2,8,8] x, float[2,2,3,3] w) => (float[1,2,6,6] y)"
              " { a = Conv<strides = [1, 1]>(x, w)  b = Conv<pads = [0, 0, 0, 0]>(x, w)  c = Exp(a)  y = Mul(c, b) }"),
         left(Conv=1)),
    Case(25, "operands in another order",
         text("(float[N,4] x, float[N,4] z) => (float[N,4] y) { a = Add(x, z)  b = Add(z, x)  c = Exp(a)  y = Mul(c, b) }"),
         left(Add=1)),
    Case(25, "operands of a comparison in another order",
         text("(float[N,4] x, float[N,4] z) => (bool[N,4] y)"
              " { a = Equal(x, z)  b = Equal(z, x)  c = Not(a)  y = And(c, b) }"), left(Equal=1)),
    Case(25, "Less and Greater with operands exchanged",
         text("(float[N,4] x, float[N,4] z) => (bool[N,4] y)"
              " { a = Less(x, z)  b = Greater(z, x)  c = Not(a)  y = And(c, b) }"),
         lambda m: sum(n.op_type in ("Less", "Greater") for n in m.graph.node) == 1),
    Case(26, "equal expressions in a branch",
         text("(float[4] x, bool c) => (float[4] y) { y = If(c) <"
              "then_branch = t () => (float[4] a) { p = Exp(x)  q = Exp(x)  r = Sin(p)  a = Mul(r, q) }, "
              "else_branch = e () => (float[4] b) { b = Relu(x) }> }"), left(Exp=1)),
    Case(26, "an expression in a branch that is outside already",
         text("(float[4] x, bool c) => (float[4] y, float[4] z) { z = Exp(x)  y = If(c) <"
              "then_branch = t () => (float[4] a) { p = Exp(x)  a = Sin(p) }, "
              "else_branch = e () => (float[4] b) { b = Relu(x) }> }"), left(Exp=1)),
]
