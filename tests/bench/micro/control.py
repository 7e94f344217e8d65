"""Rows 16 to 19 and 26 to 28: If, Loop, Scan, and what is inside of bodies and functions."""

from __future__ import annotations

from tests.bench.micro.case import Case, gone, left, text

_X = "(float[N] x, bool c) => (float[N] y)"
_IF = "y = If({}) <then_branch = t () => (float[N] p) {{ {} }}, else_branch = e () => (float[N] q) {{ {} }}>"
_LOOP = "y = Loop({}, x) <body = b (int64 i, bool d, float[N] a) => (bool e, float[N] f) {{ {} }}>"
_ONCE = "(float[N] x, float[N] w, int64 m) => (float[N] y)"


def _case(row: int, name: str, body: str, fired: object, signature: str = _X, constants: str = "", unsound: str = "") -> Case:
    given = f" <{constants}>" if constants else ""
    return Case(row, name, text(f"{signature}{given} {{ {body} }}"), fired, unsound=unsound)  # type: ignore[arg-type]


def _function(row: int, name: str, body: str, fired: object, attributes: str = "") -> Case:
    head = '<ir_version: 10, opset_import: ["" : 18, "my" : 1]> g (float[4] x) => (float[4] y) { a = my.f (x)  y = my.f (a) }'
    return Case(row, name, f'{head} <domain: "my", opset_import: ["" : 18]> f {attributes} (x) => (y) {{ {body} }}', fired)  # type: ignore[arg-type]


_YES, _N3 = "bool k = {1}", "int64 n = {3}"

CASES = [
    _case(16, "constant condition", _IF.format("k", "a = Neg(x) p = Exp(a)", "q = Sin(x)"), gone("If", "Sin"), constants=_YES),
    _case(16, "control flow within the branch", _IF.format("k", "a = Neg(x) " + _IF.format("c", "p0 = Exp(a)", "q0 = Cos(a)").replace(
        "y =", "p =").replace(") p)", ") p0)").replace("[N] p)", "[N] p0)").replace("[N] q)", "[N] q0)"), "q = Sin(x)"),
          left(If=1, Sin=0), constants=_YES),
    _case(16, "what both branches hand on", "s = Sin(x) " + _IF.format("c", "p = Identity(s)", "q = Identity(s)"), gone("If")),
    _case(16, "negated condition", "n = Not(c) " + _IF.format("n", "p = Neg(x)", "q = Sin(x)"), left(If=1, Not=0)),
    _case(16, "choice between small tensors", _IF.format("c", "p = Identity(x)", "q = Identity(z)").replace("[N]", "[4]"), left(If=0, Where=1),
          "(float[4] x, float[4] z, bool c) => (float[4] y)"),
    _case(16, "choice between tensors of other shapes", _IF.format("c", "p = Identity(x)", "q = Identity(z)").replace("[N] q", "[M] q"),
          left(If=0), "(float[N] x, float[M] z, bool c) => (float[K] y)", unsound="Where would broadcast them"),
    _case(17, "the same branches", _IF.format("c", "a = Neg(x) p = Exp(a)", "b = Neg(x) q = Exp(b)"), gone("If")),
    _case(17, "the same branches in another order", _IF.format(
        "c", "a = Neg(x) b = Sin(x) p = Add(a, b)", "s = Sin(x) r = Neg(x) q = Add(r, s)"), gone("If")),
    _case(17, "the same branches with default attributes", _IF.format("c", "p = LeakyRelu(x)", "q = LeakyRelu<alpha=0.01>(x)"), gone("If")),
    _case(17, "branches with other constants", _IF.format("c", "a = Constant<value_float=1.5>() p = Mul(x, a)",
                                                         "b = Constant<value_float=2.5>() q = Mul(x, b)"), gone("If"), unsound="they differ"),
    _case(18, "three iterations", _LOOP.format("n, ", "e = Identity(d) f = Exp(a)"), left(Loop=0, Exp=3), "(float[N] x) => (float[N] y)", _N3),
    _case(18, "three iterations, condition constant", _LOOP.format("n, k", "e = Identity(k) f = Exp(a)"), left(Loop=0, Exp=3),
          "(float[N] x) => (float[N] y)", f"{_N3}, {_YES}"),
    _case(18, "one iteration, condition computed", _LOOP.format("n, k", "s = ReduceSum<keepdims=0>(a) e = Greater(s, z) f = Exp(a)"),
          left(Loop=0, Exp=1, ReduceSum=0), "(float[N] x) => (float[N] y)", f"int64 n = {{1}}, float z = {{2}}, {_YES}"),
    _case(18, "no iteration", _LOOP.format("n, ", "e = Identity(d) f = Exp(a)"), gone("Loop"), "(float[N] x) => (float[N] y)", "int64 n = {0}"),
    _case(18, "a condition that does not hold", _LOOP.format("m, k", "e = Identity(d) f = Exp(a)"), gone("Loop"),
          "(float[N] x, int64 m) => (float[N] y)", "bool k = {0}"),
    _case(18, "a condition that may fail in between", _LOOP.format("n, k", "s = ReduceSum<keepdims=0>(a) e = Greater(s, z) f = Exp(a)"),
          gone("Loop"), "(float[N] x) => (float[N] y)", f"{_N3}, float z = {{2}}, {_YES}", unsound="it may end earlier"),
    _case(18, "with the iteration's number and collected results",
          "y, z = Loop(n, , x) <body = b (int64 i, bool d, float[N] a) => (bool e, float[N] f, float[N] g) "
          "{ e = Identity(d) k = Cast<to=1>(i) f = Add(a, k) g = Exp(f) }>", gone("Loop"), "(float[N] x) => (float[N] y, float[2,N] z)",
          "int64 n = {2}"),
    _case(19, "what is always the same", _LOOP.format("m, ", "e = Identity(d) s = Tanh(w) f = Mul(a, s)"),
          lambda m: any(n.op_type == "Tanh" for n in m.graph.node), _ONCE),
    _case(19, "what is always the same, and may fail", _LOOP.format("m, ", "e = Identity(d) k = Cast<to=7>(w) s = Gather(x, k) f = Mul(a, s)"),
          lambda m: any(n.op_type == "Gather" for n in m.graph.node), _ONCE, unsound="without iterations it would not have failed"),
    _case(19, "random numbers", _LOOP.format("m, ", "e = Identity(d) s = RandomUniformLike(w) r = Mul(s, z) f = Add(a, r)"),
          lambda m: any(n.op_type == "RandomUniformLike" for n in m.graph.node), _ONCE, "float z = {0}", unsound="each iteration draws others"),
    _case(19, "a product in iterations that take place", _LOOP.format("n, ", "e = Identity(d) s = MatMul(w, v) f = Mul(a, s)"),
          lambda m: any(n.op_type == "MatMul" for n in m.graph.node), "(float[N] x, float[N,5] w, float[5] v) => (float[N] y)", "int64 n = {50}"),
    _case(19, "a state that stays as it is", "y, z = Loop(m, , x, w) <body = b (int64 i, bool d, float[N] a, float[N] h) => "
          "(bool e, float[N] f, float[N] k) { e = Identity(d) f = Mul(a, h) k = Identity(h) }>",
          lambda m: all(len(n.input) == 3 for n in m.graph.node if n.op_type == "Loop"), "(float[N] x, float[N] w, int64 m) => (float[N] y, float[N] z)"),
    _case(19, "a state that nobody needs", "y, z = Loop(m, , x, w) <body = b (int64 i, bool d, float[N] a, float[N] h) => "
          "(bool e, float[N] f, float[N] k) { e = Identity(d) f = Exp(a) k = Sin(h) }>", gone("Sin"), _ONCE),
    _case(19, "Scan", "y = Scan<num_scan_inputs=1, body = b (float[3] v) => (float[3] g) { u = Exp(w) k = Mul(u, v) g = Neg(k) }>(x)",
          lambda m: any(n.op_type == "Exp" for n in m.graph.node), "(float[5,3] x, float[3] w) => (float[5,3] y)"),
    _case(26, "equal operators in a branch", _IF.format("c", "a = Sin(x) b = Sin(x) p = Mul(a, b)", "q = Cos(x)"), left(Sin=1)),
    _case(26, "equal operators around and in a branch", "s = Sin(x) r = Neg(s) " + _IF.format(
        "c", "a = Sin(x) p = Mul(a, r)", "q = Mul(x, r)"), left(Sin=1)),
    _case(26, "equal operators in two branches", _IF.format("c", "a = Sin(x) p = Exp(a)", "b = Sin(x) q = Cos(b)"), left(Sin=1),
          unsound="only one of them is computed"),
    _case(26, "equal operators in a Loop", _LOOP.format("m, ", "e = Identity(d) s = Sin(a) t = Sin(a) f = Mul(s, t)"), left(Sin=1), _ONCE),
    _function(28, "a rule in a function", "one = Constant<value_float=1.0>() a = Mul(x, one) b = Relu(a) y = Relu(b)", left(Relu=1, Mul=0)),
    _function(28, "constants in a function", "two = Constant<value_float=2.0>() s = Sin(two) a = Mul(x, s) y = Exp(a)", gone("Sin")),
    _function(28, "equal operators in a function", "a = Sin(x) b = Sin(x) y = Mul(a, b)", left(Sin=1)),
    _function(28, "a branch in a function", "k = Constant<value=bool {1}>() y = If(k) <then_branch = t () => (float[4] p) { p = Exp(x) }, "
              "else_branch = e () => (float[4] q) { q = Abs(x) }>", gone("If", "Abs")),
    _function(28, "a fusion in a function", "s = Sigmoid(x) h = Constant<value_float=0.5>() t = Tanh(x) u = Mul(t, h) v = Mul(u, h) y = Add(s, v)",
              left(Mul=1)),
]  # fmt: skip
