"""Applying onnxscript's rewrite rules.

A rule finds its match and builds its replacement; the rest is ours. Each application is one rewrite of the editor,
checked like those of our own rules, with the rule's name in the journal.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as oir

from graphopt.engine.passes import Context
from graphopt.errors import GraphoptError, RuleError
from graphopt.interop.described import Described
from graphopt.ir.edit import Change, Decline, Rewrite, StopRewriting
from graphopt.ir.value import Node, Value

__all__ = ["Sweeper"]

_MAX_SWEEPS = 8
_MAX_LINEAGE = 64  # rewrites that one node may descend from
_BUDGET_PER_NODE = 8  # rewrites; a run that needs more is taken for a loop
_TELLING = 3  # letters from which on a name in a message is surely the name


class Sweeper:
    """Applies rules to all graphs of a model, as onnxscript would: node after node, the first rule that matches."""

    def __init__(self, ctx: Context, rules: Sequence[tuple[str, Any]]) -> None:
        self._ctx = ctx
        self._model = ctx.model
        self._rules = [(name, rule) for name, rule in rules if not ctx.ignores(name)]
        self._by_root: dict[tuple[str, str], list[tuple[str, Any]]] = {}
        self._tried: dict[tuple[str, oir.Node], set[str]] = {}
        self._depth: dict[oir.Node, int] = {}
        self._left = _BUDGET_PER_NODE * ctx.model.node_count + 64

    def run(self) -> None:
        """Sweep until a sweep finds nothing; what one sweep removes may have kept a match from being one."""
        functions = {f.graph: f for f in self._model.ir.functions.values()}
        with Described(self._model) as lens:
            for _ in range(_MAX_SWEEPS):
                graphs = self._model.raw_graphs()
                if not sum(self._sweep(functions.get(graph, graph), lens) for graph in graphs):
                    return

    def _sweep(self, owner: oir.Graph | oir.Function, lens: Described) -> int:
        count = 0
        self._visit_all("graph_pre_visitor")
        pending = deque(owner)
        while pending:
            node = pending.popleft()
            for name, rule in self._rules_for(node):
                if not self._model.is_alive(node):
                    break
                change = self._try(name, rule, node, owner)
                if change is not None:
                    for new in change.added:
                        lens.add(new)
                    pending.extendleft(reversed(change.added))
                    count += 1
                    break
        self._visit_all("graph_post_visitor")
        return count

    def _rules_for(self, node: oir.Node) -> list[tuple[str, Any]]:
        """The rules that may match at a node, by the operator there; to ask each of them takes far longer."""
        key = node.domain, node.op_type
        found = self._by_root.get(key)
        if found is None:
            found = self._by_root[key] = [(name, rule) for name, rule in self._rules if _root(rule) in (key, None)]
        return found

    def _try(self, name: str, rule: Any, node: oir.Node, owner: oir.Graph | oir.Function) -> Change | None:
        """The change that a rule made at a node, if it matches there.

        A rule that raises ends the run, or is switched off if the user wants to keep going.
        """
        if name in self._ctx.off:
            return None
        start = time.perf_counter()
        try:
            return self._rewrite(name, rule, node, owner)
        except RuleError as error:
            if not self._ctx.selection.keep_going:
                raise
            self._ctx.off.add(name)
            self._ctx.note(f"{name} {error.what}; it was switched off")
            return None
        finally:
            stats = self._ctx.record.stats
            if stats.timed:
                stats.seconds[name] = stats.seconds.get(name, 0.0) + time.perf_counter() - start

    def _rewrite(self, name: str, rule: Any, node: oir.Node, owner: oir.Graph | oir.Function) -> Change | None:
        reasons = _Reasons()
        with _blamed(name, node):
            match = rule.match(self._model.ir, owner, node, tracer=reasons)
        if not match:
            for reason in reasons.found:
                self._count(name, node)
                self._decline(name, node, reason)
            return None
        self._count(name, node)
        depth = 1 + max(self._depth.get(n, 0) for n in match.nodes)
        if depth > _MAX_LINEAGE or not self._left:
            raise RuleError("rules rewrite each other's results without end", where=name,
                            hint=f"at the node {node.name or node.op_type!r}")
        sources = [Node(self._model, n) for n in match.nodes]
        rewrite = self._ctx.edit.rewrite(name, at=Node(self._model, node), sources=sources)
        own, shared = dict(owner.opset_imports), dict(self._model.ir.opset_imports)
        try:
            with _blamed(name, node):
                made = rule.try_rewrite(self._model.ir, owner, node)
            change = self._commit(name, rule, rewrite, made, shared)
        except BaseException as error:
            _detach(match)
            _restore(owner.opset_imports, own)
            _restore(self._model.ir.opset_imports, shared)
            if not isinstance(error, Decline):
                raise
            self._decline(name, node, error.reason)
            return None
        if owner is not self._model.ir.graph and not isinstance(owner, oir.Function):
            _restore(owner.opset_imports, own)  # a body has those of the graph around it
        self._left -= 1
        self._ctx.record.stats.fired[name] += 1
        self._depth.update(dict.fromkeys(change.added, depth))
        return change

    def _commit(self, name: str, rule: Any, rewrite: Rewrite, made: Any, known: Mapping[str, int]) -> Change:
        """Make the rewrite of what the rule built. `known`: the operator sets that the model had before."""
        if made is None:
            raise Decline("the replacement function gave no replacement")
        try:
            if rule.as_function:
                raise Decline("rules that make local functions (as_function) are not supported")
            if not all(isinstance(value, oir.Value) for value in made.new_outputs):
                raise RuleError("gave something that is no value", where=name)
            pairs = list(zip(made.match.outputs, made.new_outputs, strict=True))
            if any(old is new for old, new in pairs):
                raise Decline("the replacement is what it replaces")
            foreign = [n for n in made.new_nodes if n.domain not in known]
            self._ctx.check_domains(foreign, self._model.ir.opset_imports)
            assume = {new: Value(self._model, old) for old, new in pairs}
            rewrite.adopt(made.new_nodes, made.new_initializers, assume=assume)
            for old, new in pairs:
                rewrite.replace(Value(self._model, old), Value(self._model, new))
        except BaseException:
            rewrite.rollback()
            _release(made.new_nodes)
            raise
        return rewrite.commit()

    def _visit_all(self, visitor: str) -> None:
        for name, rule in self._rules:
            visit = getattr(rule, visitor, None)
            if visit is not None:
                with _blamed(name, None):
                    visit()

    def _count(self, name: str, node: oir.Node) -> None:
        if (name, node) not in self._tried:
            self._tried[name, node] = set()
            self._ctx.record.stats.tried[name] += 1

    def _decline(self, name: str, node: oir.Node, reason: str) -> None:
        """Count a reason; the next sweep finds it again."""
        if reason not in self._tried[name, node]:
            self._tried[name, node].add(reason)
            self._ctx.decline(name, Node(self._model, node), reason)


def _root(rule: Any) -> tuple[str, str] | None:
    """Domain and operator of the node that a rule is given to match; None where that is not known from outside."""
    if type(getattr(rule, "_matcher", None)).__name__ != "SimplePatternMatcher":
        return None
    nodes = getattr(getattr(rule, "_target_pattern", None), "output_nodes", None)
    identifier = nodes[0].op_identifier() if nodes else None
    return identifier[:2] if identifier else None


class _Reasons:
    """Hears why matches were refused by a condition, as a tracer of onnxscript's matching."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def log(self, rule: Any, container: Any, node: Any, match: Any, status: Any) -> None:
        if status.name == "CONDITION_FAILED":
            reason = " ".join(str(match.reason).split())
            for item in (*match.failure_nodes_and_values, *match.bindings.values()):
                name = getattr(item, "name", None) or ""
                if len(name) >= _TELLING:  # one reason for all nodes, so that it can be counted
                    reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", reason)
            self.found.append(reason or "its condition does not hold")


@contextmanager
def _blamed(name: str, node: oir.Node | None) -> Iterator[None]:
    """Name the rule, and the node, in what its functions raise."""
    try:
        yield
    except (GraphoptError, Decline, StopRewriting):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        place = "" if node is None else f" at the node {node.name or node.op_type!r}"
        raise RuleError(f"raised {type(error).__name__}{place}{': ' if text else ''}{text}", where=name,
                        hint="run again with -v for the traceback") from error


def _restore(imports: MutableMapping[str, int], to: Mapping[str, int]) -> None:
    imports.clear()
    imports.update(to)


def _release(nodes: Sequence[oir.Node]) -> None:
    """Let nodes that are part of no graph read nothing, so that they do not count as readers."""
    for node in nodes:
        for i in range(len(node.inputs)):
            node.replace_input_with(i, None)


def _detach(match: Any) -> None:
    """Release nodes that a rule made and then left behind when it raised or gave up."""
    values = [v for v in match.bindings.values() if isinstance(v, oir.Value)]
    values += [v for node in match.nodes for v in (*node.inputs, *node.outputs) if v is not None]
    _release([use.node for value in dict.fromkeys(values) for use in value.uses() if use.node.graph is None])
