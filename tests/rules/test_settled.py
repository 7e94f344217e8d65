"""Optimizing a result again does nothing: what a fresh look at the result would tell, the first run knows at its end."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from graphopt.engine.assemble import assemble
from graphopt.engine.pipeline import Pipeline
from graphopt.interop.convert import from_ir, to_ir
from graphopt.interop.kinds import Kind
from graphopt.ir.model import Model
from graphopt.rules.rule import Accuracy
from graphopt.targets.target import load_target

MODELS = {
    "an attribute that the only call left fixes": """<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
        g (float[3] x) => (float[3] y) { y = my.f <s = 0.5> (x)  dead = my.f <s = 1.0> (x) }
        <domain: "my", opset_import: ["" : 21]> f <s> (x) => (y)
        { k = Constant <value_float: float = @s> ()  a = Mul (x, k)  n = Neg (a)  y = Neg (n) }""",
    "a type that the only call left has": """<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
        g (float[3] x, double[2] z) => (float[3] y) { y = my.f (x)  dead = my.f (z) }
        <domain: "my", opset_import: ["" : 21]> f (x) => (y) { a = Sin (x)  k = Constant <value = float {1}> ()
          c = CastLike (k, a)  n = Mul (a, c)  y = Neg (n) }""",
    "a type in a function that a function calls": """<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
        g (float[3] x, double[2] z) => (float[3] y) { y = my.outer (x)  dead = my.outer (z) }
        <domain: "my", opset_import: ["" : 21, "my" : 1]> outer (x) => (y) { a = Sin (x)  y = my.f (a) }
        <domain: "my", opset_import: ["" : 21]> f (x) => (y) { a = Cos (x)  n = Neg (a)  y = Neg (n) }""",
    "layout in a function": """<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
        g (float[2,3,4,5] x) => (float[2,4,5,3] y) { y = my.f <s = 0.5> (x)  dead = my.f <s = 1.0> (x) }
        <domain: "my", opset_import: ["" : 21]> f <s> (x) => (y)
        { a = Elu <alpha: float = @s> (x)  t = Transpose <perm = [0,2,3,1]> (a)  b = Sin (t)
          u = Transpose <perm = [0,3,1,2]> (b)  c = Cos (u)  v = Transpose <perm = [0,2,3,1]> (c)  y = Exp (v) }""",
    "equal slices of unknown length": """<ir_version: 10, opset_import: ["" : 8]>
        g (int64[K] x) => (int64[M] y, int64[N] z) <int64[1] zero = {0}>
        { a = Slice <ends = [2147483647], starts = [1]> (x)
          y = Slice <axes = [0], ends = [2], starts = [2]> (a)  b = Slice <axes = [0], ends = [2], starts = [2]> (a)
          z = Reshape (b, zero) }""",
    "what equal slices of unknown length are added to": """<ir_version: 10, opset_import: ["" : 8]>
        g (int64[K] x) => (int64[M] y, int64[N] z)
        { a = Slice <axes = [0], ends = [2], starts = [2]> (x)  b = Slice <axes = [0], ends = [2], starts = [2]> (x)
          s = Add (a, b)  n = Shape (a)  y = Expand (s, n)  z = Neg (b) }""",
    "the size of what a branch gives": """<ir_version: 10, opset_import: ["" : 18]>
        g (float[M] x) => (float[N] y) <bool yes = {1}, int64 one = {1}, int64[1] copied = {0}>
        { s = Squeeze (x)  r = If (yes) <then_branch = t () => (float[2] p)
            { n = Shape (s)  d = Div (n, one)  k = Gather <axis = 0> (d, copied)  p = Reshape (s, k) },
          else_branch = e () => (float[2] q) { q = Identity (s) }>
          y = Reshape (r, copied) }""",
    "what lost a reader that reads something else": """<ir_version: 10, opset_import: ["" : 17]>
        g (float[W,L,H] x) => (float[W,L,H] y, int64[2] n) { c = Clip (x)  y = Relu (c)  n = Shape <end = 2> (c) }""",
    "a size that turned out to be 1": """<ir_version: 10, opset_import: ["" : 14]>
        g (float[L,W] x) => (float[M] y)
        <int64 once = {1}, bool yes = {1}, int64[1] flat = {-1}, int64[1] two = {2}, int64[1] last = {1}, int64[1] first = {0}>
        { s = SplitToSequence (x)  a = ConcatFromSequence <axis = 0> (s)
          b, c = Loop (once, yes, a) <body = body (int64 i, bool on, float[P,Q] state) => (bool go, float[P,Q] same, float[T,U] part)
            { go = Identity (on)  same = Identity (state)  part = Slice (a, last, two, first) }>
          y = Reshape (c, flat) }""",
    "a quotient of a size that turned out to be another": """<ir_version: 10, opset_import: ["" : 15]>
        g (float[1] x) => (float[N] y)
        { s = SplitToSequence (x)  a = ConcatFromSequence <axis = 0> (s)  b = Concat <axis = 0> (x, x, a)
          c, d, y = Split (b) }""",
    "what a Loop would collect if it ran": """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1] x) => (float[N] y)
        <int64 ten = {10}, bool no = {0}, int64[1] flat = {-1}, float[1] start = {0}>
        { a, b = Loop (ten, no, x) <body = body (int64 i, bool on, float[] state) => (bool go, float[] same, float[] part)
            { go = Identity (on)  same = Identity (state)  sizes = Constant <value = int64[3] {0, 1, 0}> ()
              p, part, q = Split <axis = 0> (state, sizes) }>
          y = Reshape (b, flat) }""",
    "what a Loop reads from around it": """<ir_version: 10, opset_import: ["" : 17]>
        g (float[1] x, int64 n) => (float16[N] y) <int64[1] flat = {-1}>
        { a, b = Loop (n, "", x) <body = body (int64 i, bool on, float[] state) => (bool go, float[] same, float16[] part)
            { go = Identity (on)  same = Identity (state)  c = Cast <to = 10> (state)  part = Cast <to = 10> (c) }>
          s = Sqrt (b)  y = Reshape (s, flat) }""",
    "what a Scan goes through": """<ir_version: 10, opset_import: ["" : 13]>
        g (float[1,4] x, float[4] z) => (float[N,4] y) <float[4] start = {1, -2, 3, -4}>
        { n = Shape (x)  a = Reshape (z, n)
          b, y = Scan <num_scan_inputs = 1, body = body (float[4] state, float[4] row) => (float[4] same, float[4] sum)
            { same = Identity (state)  s = Add (state, row)  sum = Identity (s) }> (start, a) }""",
}


@pytest.mark.parametrize("name", MODELS)
def test_a_second_run_has_nothing_to_do(name: str) -> None:
    model = parser.parse_model(MODELS[name])
    first, result = optimized(model)
    second, _ = optimized(result)
    assert first
    assert second == []


def optimized(model: onnx.ModelProto) -> tuple[list[str], onnx.ModelProto]:
    """The rewrites that are applied, and what comes of them; the result is read as from a file."""
    loaded = Model(*to_ir(model))
    passes = assemble("O1").passes
    journal = Pipeline(passes, load_target("onnx"), accuracy=Accuracy.EXACT).run(loaded)
    result = from_ir(loaded.ir, Kind.PROTO)
    onnx.checker.check_model(result, full_check=True)
    return [entry.rule for entry in journal.entries], result
