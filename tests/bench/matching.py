"""What matching costs: a failed try, rules that cannot apply, operators in any order, and `explain` while it is off."""

from __future__ import annotations

import ast
import dataclasses
import statistics
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as oir
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import Rule, op, rule
from graphopt.engine.driver import Driver
from graphopt.ir.edit import Editor
from graphopt.rules import attributes, closures, match, state
from graphopt.rules.trace import trace

ROUNDS = 9


def matching() -> None:
    """Print the figures; times are of this process's own work, so that others on the machine count less."""
    print("\n== matching ==")
    failed_try()
    absent_rules()
    commutative()
    explain_off()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(*works: Callable[[], object], rounds: int = ROUNDS) -> list[list[float]]:
    """Times of several pieces of work, in turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for kept, work in zip(times, works, strict=True):
            kept.append(seconds(work))
    return times


def chain(nodes: int) -> graphopt.Model:
    """Relu and Add in turns."""
    made, last = [], "x"
    for i in range(nodes // 2):
        made += [helper.make_node("Relu", [last], [f"r{i}"]), helper.make_node("Add", [f"r{i}", "x"], [f"a{i}"])]
        last = f"a{i}"
    return load(made, last)


def load(nodes: list[Any], last: str, constants: dict[str, Any] | None = None) -> graphopt.Model:
    weights = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    model = graphopt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    assert model.facts is not None
    return model


def named(number: int, pattern: Callable[..., Any], replacement: Callable[..., Any]) -> Rule[Any]:
    replacement.__name__ = f"rule_{number}"
    return rule(pattern)(replacement)


def sweep(model: graphopt.Model, rules: Sequence[Rule[Any]]) -> Callable[[], object]:
    return lambda: Driver([(r.name, r) for r in rules], Editor(model)).run()


def failed_try() -> None:
    """100 rules rooted at Add, whose operands must come from Exp and Log, on 5 000 Adds where they do not."""
    model = chain(10_000)
    nodes = list(model.ir.graph)
    root = nodes[1].outputs[0]
    hundred = [named(i, lambda x, y: op.Exp(x) + op.Log(y), lambda x, y: x - y).patterns[0] for i in range(100)]
    makers = [closures.operators_of(n.inputs) for n in nodes if n.op_type == "Add"]
    assert not any(p.may_match("Add", m) for p in hundred for m in makers)

    def tries() -> None:
        for made_of in makers:
            for pattern in hundred:
                pattern.may_match("Add", made_of)

    def loop() -> None:
        for made_of in makers:
            for pattern in hundred:
                pattern, made_of  # noqa: B018 - the loop alone

    times, bare = interleaved(tries, loop)
    each = [(t - b) / (100 * len(makers)) * 1e6 for t, b in zip(times, bare, strict=True)]
    print(f"  a failed try whose operand operators differ: {show(each)} µs (goal: under 0.5)")
    pattern = hundred[0]
    whole = interleaved(lambda: [pattern.match(model.facts, root) for _ in range(20_000)])[0]
    print(f"    the same through Pattern.match, which reads the operands anew: {show([t / 20_000 * 1e6 for t in whole])} µs")


def absent_rules() -> None:
    """200 rules whose root operator the model does not have."""
    model = chain(10_000)
    base = [named(0, lambda x: op.Relu(op.Relu(x)), lambda x: op.Relu(x))]
    more = [named(i, lambda x: op.Erf(op.Neg(x)), lambda x: op.Abs(x)) for i in range(200)]
    without, with_them = interleaved(sweep(model, base), sweep(model, base + more), rounds=15)
    extra = [1e3 * (b - a) for a, b in zip(without, with_them, strict=True)]
    print(f"  200 rules whose root is absent, 10 000 nodes: {show(extra)} ms more (goal: under 10)")


def commutative() -> None:
    """Twelve additions under a Relu, as a chain and as a tree; matching, and failing as late as possible."""
    print("  12 nested commutative operators, per try (goal: under 1 ms):")
    for title, pattern, leaves, makes in _cases():
        root = _tree(leaves, makes)
        compiled = match.Pattern(trace(pattern), "bench")
        model, value = root
        found = compiled.match(model.facts, value) is not None
        times = interleaved(lambda: [compiled.match(model.facts, value) for _ in range(20)])[0]  # noqa: B023
        print(f"    {title:42} {show([t / 20 * 1e3 for t in times])} ms, {'matches' if found else 'no match'}")


def _cases() -> list[tuple[str, Callable[..., Any], list[str], dict[str, Any]]]:
    names = [f"v{i}" for i in range(13)]

    def pattern(source: Sequence[str], parameters: Sequence[str]) -> Callable[..., Any]:
        """A tree of additions over these expressions."""
        scope: dict[str, Any] = {"op": op, "tree": tree}
        exec(f"def p({', '.join(parameters)}):\n    return op.Relu(tree([{', '.join(source)}]))", scope)
        return scope["p"]

    sines = {f"s{i}": ("Sin", f"i{i}") for i in range(13)}
    odd = {**sines, "s12": ("Cos", "i12")}
    return [
        ("a tree over one tensor", pattern(["x"] * 13, ["x"]), ["i0"] * 13, {}),
        ("a tree over one tensor, one leaf differs", pattern(["x"] * 13, ["x"]), ["i0"] * 12 + ["i1"], {}),
        ("a tree whose first and last leaf must agree", pattern([*names[:12], "v0"], names[:12]), [f"i{i}" for i in range(13)], {}),
        ("a tree over Sin", pattern([f"op.Sin({n})" for n in names], names), list(sines), sines),
        ("a tree over Sin, one is Cos", pattern([f"op.Sin({n})" for n in names], names), list(odd), odd),
    ]


def tree(leaves: list[Any], join: Callable[[Any, Any], Any] = lambda a, b: a + b) -> Any:
    while len(leaves) > 1:
        pairs = [leaves[i : i + 2] for i in range(0, len(leaves), 2)]
        leaves = [join(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return leaves[0]


def _tree(leaves: list[str], makes: dict[str, tuple[str, str]]) -> tuple[graphopt.Model, oir.Value]:
    nodes = [helper.make_node("Mul", ["x", f"c{i}"], [f"i{i}"]) for i in range(13)]
    nodes += [helper.make_node(name, [source], [out]) for out, (name, source) in makes.items()]

    def join(a: str, b: str) -> str:
        nodes.append(helper.make_node("Add", [a, b], [f"t{len(nodes)}"]))
        return str(nodes[-1].output[0])

    nodes.append(helper.make_node("Relu", [tree(list(leaves), join)], ["y"]))
    model = load(nodes, "y", {f"c{i}": np.float32(i + 2) for i in range(13)})
    return model, list(model.ir.graph)[-1].outputs[0]


def explain_off() -> None:
    """The real matcher in turns with one without the lines that are there for `explain`, cut out of its source."""
    from graphopt_passes.fuse import Fuse
    from graphopt_passes.simplify import Simplify

    model = chain(2_000)
    cut = _without_notes()
    real = [r for item in (Simplify, Fuse) for r in item.rules()]
    bare = [dataclasses.replace(r, patterns=tuple(cut(p.outputs, p.place) for p in r.patterns)) for r in real]
    ratio("sweeps of all built-in rules", sweep(model, real), sweep(model, bare), rounds=101)
    outputs = trace(lambda x, y: op.Relu(op.Relu(x) + y) | op.Relu(op.Relu(op.Neg(x)) + y) | op.Relu(x + 3))
    values = [n.outputs[0] for n in model.ir.graph if n.op_type == "Relu"][:500]
    tries = [lambda p=p: [p.match(model.facts, v) for v in values] for p in (match.Pattern(outputs, ""), cut(outputs, ""))]
    ratio("tries that fail late, nothing else", *tries, rounds=501)


def ratio(title: str, with_notes: Callable[[], object], without: Callable[[], object], rounds: int) -> None:
    ours, theirs = interleaved(with_notes, without, rounds=rounds)
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    print(
        f"  explain while it is off, {title}: {middle:.3f} times the time without its code"
        f" (median of {rounds} rounds; middle half {low:.2f} to {high:.2f}; goal: below 1.01)"
    )


def _without_notes() -> type[match.Pattern]:
    """`Pattern` made anew from the sources of the matcher, without what serves `explain`."""
    made: dict[str, types.ModuleType] = {}
    for module in (state, attributes, closures, match):
        parsed = _Cutter().visit(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")))
        copy = types.ModuleType(module.__name__)
        copy.__dict__["__builtins__"] = __builtins__
        exec(compile(ast.fix_missing_locations(parsed), str(module.__file__), "exec"), copy.__dict__)
        for earlier in made.values():
            for name in vars(copy).keys() & vars(earlier).keys():
                if getattr(vars(copy)[name], "__module__", None) == earlier.__name__:
                    vars(copy)[name] = vars(earlier)[name]
        made[module.__name__] = copy
    return made[match.__name__].Pattern  # type: ignore[no-any-return]


class _Cutter(ast.NodeTransformer):
    """Leaves out `if note is not None: …`, and what keeps `state.place` up to date."""

    def visit_If(self, node: ast.If) -> Any:
        return ast.Pass() if ast.unparse(node.test) == "note is not None" else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        return ast.Pass() if "state.place" in ast.unparse(node) else self.generic_visit(node)


def show(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"




if __name__ == "__main__":
    matching()
