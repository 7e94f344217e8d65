"""The first inference of a whole model: one run in C++, merged by scope and name, then refined in one sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import onnx
import onnx_ir as oir

from graphopt.ir import control
from graphopt.ir.calls import Calls, body_model, common_attributes
from graphopt.ir.dims import Dim
from graphopt.ir.learn import more
from graphopt.ir.native import Fact, common, infer_model, merged
from graphopt.ir.prepare import Identifier, Prepared, prepare
from graphopt.ir.save import skeleton
from graphopt.ir.schemas import Inconsistent

if TYPE_CHECKING:
    from graphopt.ir.facts import Facts

_UNKNOWN = Fact()
_WITH_FUNCTIONS = 8  # the first IR version that has local functions
# Operators whose own rules are tried before onnx's, which take a quarter of a millisecond to ask.
_OWN_FIRST = frozenset(["Concat", "Expand", "Flatten", "Gather", "MatMul", "Reshape", "Slice", "Split", "Transpose"])


def infer_everything(facts: Facts, proto: onnx.ModelProto) -> None:
    """Fill `facts` for the main graph, all bodies inside it, and all local functions."""
    prepared = prepare(proto, facts.translator)
    functions = facts.model.functions
    for function in functions.values():
        facts.register(function.graph, function.opset_imports)
    calls = _find_calls(facts)
    _infer_graph(facts, facts.model.graph, prepared.model)
    for name in calls.order(functions):
        if name in prepared.functions:
            _infer_function(facts, name, calls, prepared)


def infer_functions_again(facts: Facts) -> list[oir.Graph]:
    """Infer the local functions again whose calls that are left have more in common; returns their bodies."""
    functions = facts.model.functions
    calls = _find_calls(facts)
    prepared: Prepared | None = None
    found: list[oir.Graph] = []
    for name in calls.order(functions):
        sites = calls.of(name)
        if not sites or not _have_more_in_common(facts, functions[name], sites):
            continue
        if prepared is None:
            imports = dict(facts.model.opset_imports)
            alone = oir.Model(
                oir.Graph([], [], nodes=[], opset_imports=imports, name="functions"),
                ir_version=max(facts.model.ir_version, _WITH_FUNCTIONS),
                functions=list(functions.values()),
            )
            prepared = prepare(skeleton(alone), facts.translator)
        if name in prepared.functions:
            _infer_function(facts, name, calls, prepared)
            found.append(functions[name].graph)
    return found


def _infer_function(facts: Facts, name: Identifier, calls: Calls, prepared: Prepared) -> None:
    function, body, sites = facts.model.functions[name], prepared.functions[name], calls.of(name)
    types = _arguments(facts, function, sites)
    for value, fact in zip(function.inputs, types, strict=False):
        facts.set(value, fact)
    attributes = common_attributes(function, sites)
    facts.fixed_attributes[name] = frozenset(attributes)
    model = body_model(body, list(map(facts.translator.to_proto, types)), attributes, prepared.model.functions)
    _infer_graph(facts, function.graph, model)


def _have_more_in_common(facts: Facts, function: oir.Function, sites: Sequence[oir.Node]) -> bool:
    """Whether more is known of what a function is called with than when it was inferred."""
    if not common_attributes(function, sites).keys() <= facts.fixed_attributes.get(function.identifier(), frozenset()):
        return True
    types = _arguments(facts, function, sites)
    return any(more(facts.fact(v), t) is not None for v, t in zip(function.inputs, types, strict=True))


def _arguments(facts: Facts, function: oir.Function, sites: Sequence[oir.Node]) -> list[Fact]:
    """What all calls of a function have in common, for each of its inputs."""
    count = len(function.inputs)
    return [common([_argument(facts, site, i) for site in sites], facts.translator) for i in range(count)]


def _argument(facts: Facts, site: oir.Node, index: int) -> Fact:
    value = site.inputs[index] if index < len(site.inputs) else None
    return _UNKNOWN if value is None else facts.fact(value)


def _find_calls(facts: Facts) -> Calls:
    """Every call of a local function; on the way, every body learns which opsets are in force in it."""
    calls = Calls()
    functions = facts.model.functions
    scopes: list[tuple[oir.Graph, Identifier | None]] = [(facts.model.graph, None)]
    scopes += [(function.graph, name) for name, function in functions.items()]
    for top, caller in scopes:
        imports = facts.model.opset_imports if caller is None else functions[caller].opset_imports
        for node in control.inside_out(top, lambda body, _, i=imports: facts.register(body, i)):  # type: ignore[misc]
            facts.look_over(node)
            if functions and node.op_identifier() in functions:
                calls.add(node, caller)
    return calls


def _infer_graph(facts: Facts, graph: oir.Graph, proto: onnx.ModelProto) -> None:
    inferred, problem = infer_model(proto)
    if problem is not None:
        facts.problems.append(problem)
    reader = _Reader(facts)
    vague = _merge(facts, graph, (inferred or proto).graph, reader)
    _Sweep(facts, vague, reader.invented).run(graph)


def _merge(facts: Facts, top: oir.Graph, inferred: onnx.GraphProto, reader: _Reader) -> set[oir.Value]:
    """Take over the inferred types by scope and name. Returns the values of which something is unknown."""
    vague: set[oir.Value] = set()
    read = reader.read
    stack = [(top, inferred)]
    while stack:
        graph, proto = stack.pop()
        types = {value.name: value.type for value in (*proto.output, *proto.value_info, *proto.input)}
        for value in graph.inputs:
            if value.name in types and facts.fact(value).dtype is None:
                facts.set(value, read(types[value.name])[0])
        holders: list[oir.Node] = []
        for node in graph:
            for value in node.outputs:
                kind = types.get(value.name) if value.name else None
                if kind is None:
                    vague.add(value)
                    continue
                fact, unclear = read(kind)
                facts.set(value, fact)
                if unclear:
                    vague.add(value)
            if node.attributes and control.bodies(node):
                holders.append(node)
        if holders:
            stack += _inner(holders, proto)
    return vague


class _Reader:
    """Reads the types of one run of the inference, each distinct one once.

    `invented`: the sizes that the inference did not know and gave names of its own.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.invented: set[object] = set()
        self._names: dict[str, Dim] = {}
        self._seen: dict[bytes, tuple[Fact, bool]] = {}

    def read(self, proto: onnx.TypeProto) -> tuple[Fact, bool]:
        """The type, and whether something of it is unknown."""
        key = proto.SerializeToString()
        found = self._seen.get(key)
        if found is None:
            fact = self._facts.translator.from_proto(proto, self._names)
            self.invented.update(islice(reversed(self._names.values()), len(self._names) - len(self.invented)))
            unclear = fact.shape is None or any(n is None or n in self.invented for n in fact.shape)
            found = self._seen[key] = fact, unclear
        return found


def _inner(holders: Iterable[oir.Node], proto: onnx.GraphProto) -> list[tuple[oir.Graph, onnx.GraphProto]]:
    """The bodies that nodes hold, on both sides. A node is found by its first output, whose name is unique."""
    by_output = {node.output[0]: node for node in proto.node if node.output}
    pairs: list[tuple[oir.Graph, onnx.GraphProto]] = []
    for holder in holders:
        node = by_output.get(holder.outputs[0].name or "") if holder.outputs else None
        if node is not None:
            pairs += zip(control.bodies(holder), _bodies(node), strict=False)
    return pairs


def _bodies(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


class _Sweep:
    """Goes over a graph once, in order, and finds out more where onnx's inference gave up.

    A size that it invented is looked into at the node where it first appears; if that says what the size
    really is, everything that has it follows. Only nodes whose inputs became clearer are inferred anew.
    """

    def __init__(self, facts: Facts, vague: set[oir.Value], invented: set[object]) -> None:
        self._facts = facts
        self._vague = vague
        self._unexplained = set(invented)
        self._solved: dict[object, int | Dim] = {}
        self._improved: set[oir.Value] = set()

    def run(self, graph: oir.Graph) -> None:
        for node in control.inside_out(graph, self._enter):
            if node.op_type in control.CONTROL_FLOW or not self._vague.isdisjoint(node.outputs):
                self._visit(node)

    def _enter(self, _: oir.Graph, holder: oir.Node) -> None:
        """Take over what the operands of a Scan, which are clearer by now, say of what its body goes through."""
        facts = self._facts
        if self._improved.isdisjoint(holder.inputs):
            return
        for value, implied in control.inputs(holder, facts.fact, facts.standard_version(holder)):
            known = more(facts.fact(value), implied)
            if known is not None:
                facts.set(value, known)
                self._improved.add(value)

    def _visit(self, node: oir.Node) -> None:
        facts = self._facts
        for value in node.outputs:
            self._substitute(value)
        known = [facts.fact(value) for value in node.outputs]
        leaves_scope = node.op_type in control.CONTROL_FLOW
        if not leaves_scope and not self._are_open(known):
            return
        typed = all(fact.dtype is not None for fact in known)
        native = not typed or not self._improved.isdisjoint(node.inputs)
        try:
            found = facts.outputs(node, native=native and not (typed and node.op_type in _OWN_FIRST))
            if native and any(fact.shape is None or None in fact.shape for fact in found):
                found = facts.outputs(node)
        except Inconsistent as reason:
            facts.refuse(node, str(reason))
            found = facts.contributed(node) if node.domain == "" else []
        for value, old, new in zip(node.outputs, known, found, strict=False):
            if leaves_scope:
                old = control.without_local_sizes(old, facts.translator)
            fact = self._combined(node, old, new)
            if fact != facts.fact(value):
                self._solve(old, fact)
                facts.set(value, fact)
                self._improved.add(value)

    def _substitute(self, value: oir.Value) -> None:
        fact = self._facts.fact(value)
        if fact.shape is not None and not self._solved.keys().isdisjoint(fact.shape):
            shape = tuple(self._solved.get(n, n) for n in fact.shape)
            self._facts.set(value, fact._replace(shape=shape))
            self._improved.add(value)

    def _are_open(self, facts: list[Fact]) -> bool:
        """Whether nobody has looked yet into what is unknown here."""
        fresh = self._unexplained.intersection(n for fact in facts for n in fact.shape or ())
        self._unexplained -= fresh
        return bool(fresh) or any(fact.shape is None and fact.proto is None for fact in facts)

    def _solve(self, old: Fact, new: Fact) -> None:
        for a, b in zip(old.shape or (), new.shape or (), strict=False):
            if isinstance(a, Dim) and a.is_anonymous and b is not None and a != b:
                self._solved.setdefault(a, b)

    def _combined(self, node: oir.Node, old: Fact, new: Fact) -> Fact:
        if old.dtype is None and old.proto is None:
            return new
        try:
            return merged(old, new.shape)
        except Inconsistent as reason:
            self._facts.problems.append(f"{node.name or node.op_type}: {reason}")
            return Fact(old.dtype)
