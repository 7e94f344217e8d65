"""What is known about the values of a model: dtypes, shapes, constants, and the elements of shape tensors.

Everything is inferred once when the model is loaded; afterwards each new node is inferred when it is made, and what
reads its results once more if that tells more of them (`refresh`). A rewrite keeps the type of what it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import onnx
import onnx.defs
import onnx_ir as oir

from graphopt.ir import contributed, control, shapes
from graphopt.ir.constants import Constants, sizes
from graphopt.ir.dims import Dim, Shape, provably_equal, static
from graphopt.ir.fast import fast_types
from graphopt.ir.kernel import Array
from graphopt.ir.native import Fact, Translator, infer_node, merged, node_proto, tensor_proto
from graphopt.ir.schemas import Inconsistent, check_arity, defaults, lookup, misjudged, misuse, refusal
from graphopt.ir.symbolic import ShapeValues

__all__ = ["Facts", "Inconsistent", "provably_equal"]

_UNKNOWN = Fact()
_SIZED_BY_FLOATS = frozenset({"Resize", "Upsample", "Range"})
# Operators whose shapes depend on what is in an input, other than the ones with an index above 0.
_SIZED_BY_FIRST = frozenset({
    "BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range",
})


class Facts:
    """The facts of one model.

    `proto`: the model without weights, from which it was read; None: it is made from `model`.
    `problems` lists nodes that the inference refused; their outputs are simply unknown.
    """

    def __init__(self, model: oir.Model, proto: onnx.ModelProto | None = None) -> None:
        from graphopt.ir.initial import infer_everything

        self.model = model
        self._functions = model.functions
        self.problems: list[str] = []
        self._malformed: set[oir.Node] = set()
        self._well_formed: set[tuple[str, str, int, int]] = set()  # kinds of nodes without attributes, seen and fine
        self.fixed_attributes: dict[tuple[str, str, str], frozenset[str]] = {}  # of functions, in all calls the same
        self.translator = Translator()
        self._facts: dict[oir.Value, Fact] = {}
        self._main_imports = model.opset_imports
        self._imports: dict[oir.Graph, MutableMapping[str, int]] = {model.graph: self._main_imports}
        # Before IR version 4 every initializer had to be a graph input too, and none could be overridden.
        self._constants = Constants(overridable=model.ir_version >= 4)
        self._symbolic = ShapeValues(self)
        if proto is None:
            from graphopt.ir.save import skeleton

            proto = skeleton(model)
        infer_everything(self, proto)

    # -- questions about a value ---------------------------------------------------------------------------

    def fact(self, value: oir.Value) -> Fact:
        """The type of a value; an empty `Fact` if nothing is known."""
        found = self._facts.get(value)
        if found is None:
            tensor = self._constants.tensor(value)
            if tensor is None:
                return _UNKNOWN
            found = self._facts[value] = Fact(tensor.dtype, sizes(tensor))
        return found

    def dtype(self, value: oir.Value) -> oir.DataType | None:
        """Element type; None if unknown, or if the value is no tensor."""
        return self.fact(value).dtype

    def shape(self, value: oir.Value) -> Shape | None:
        """One entry per axis: a number, a symbolic size, or None; None instead if the rank is unknown."""
        return self.fact(value).shape

    def const(self, value: oir.Value) -> oir.TensorProtocol | None:
        """The content of an initializer that no caller can override, or of a Constant."""
        return self._constants.tensor(value)

    def array(self, value: oir.Value) -> Array | None:
        """A constant as an array, not to be written to; read from its file each time unless it is small."""
        return self._constants.array(value)

    def sample(self, value: oir.Value) -> tuple[bytes, ...] | None:
        """A few bytes of a constant, by which most different ones are told apart without reading them."""
        return self._constants.sample(value)

    def excerpt(self, value: oir.Value, pieces: int, length: int) -> Array | None:
        """Up to `pieces` times `length` elements of a constant, as an array of one axis; the others are not read."""
        return self._constants.excerpt(value, pieces, length)

    def splat(self, value: oir.Value) -> Any:
        """The NumPy scalar that every element of a constant equals bit for bit, else None.

        Constants without elements, or with more than a million, have none.
        """
        return self._constants.splat(value)

    def symbolic(self, value: oir.Value) -> tuple[int | Dim, ...] | None:
        """The elements of an integer tensor of rank 0 or 1 and at most 64 elements, as far as shapes tell.

        An element that nothing is known of is a symbol of its own. None for all other values.
        """
        found = self._symbolic.of(value)
        if found is None or found.ndim > 1 or found.dtype.kind not in "iO":
            return None
        return tuple(found.reshape(-1).tolist())

    # -- questions about operators -------------------------------------------------------------------------

    def opset(self, domain: str, where: oir.Graph | oir.Node | None = None) -> int | None:
        """The version of `domain` in force for a graph, or for the graph that holds a node; None: not imported."""
        imports = self._imports_of(where)
        return imports.get(domain if domain != "ai.onnx" else "")

    def schema(self, node: oir.Node, graph: oir.Graph | None = None) -> onnx.defs.OpSchema | None:
        """The schema of a node's operator; None if it has none here, also where a local function takes its name."""
        version = self._version(node, graph)
        return None if version is None else lookup(node.domain, node.op_type, version)

    def default_attr(self, node: oir.Node, name: str) -> Any:
        """The default that the schema gives an attribute, as a Python value; None without one."""
        version = self._version(node, None)
        return None if version is None else defaults(node.domain, node.op_type, version).get(name)

    def default_attrs(self, node: oir.Node) -> Mapping[str, Any]:
        """All defaults of the schema's attributes, as Python values."""
        version = self._version(node, None)
        return {} if version is None else defaults(node.domain, node.op_type, version)

    def formal_types(self, domain: str, op_type: str) -> tuple[str, ...]:
        """What the schema says of each input's type: a concrete type, or the name of a type variable."""
        version = self.opset(domain)
        schema = None if version is None else lookup(domain, op_type, version)
        return () if schema is None else tuple(i.type_str for i in schema.inputs)

    def standard_version(self, node: oir.Node) -> int | None:
        """The opset version for an operator of ONNX's default domain; None for anything else."""
        return self._version(node, None) if node.domain == "" else None

    def _version(self, node: oir.Node, graph: oir.Graph | None) -> int | None:
        if len(self._imports) == 1 and not self._malformed and not self._functions:  # no bodies: what is asked most
            return self._main_imports.get(node.domain)
        if node in self._malformed or (self._functions and node.op_identifier() in self._functions):
            return None
        return self._imports_of(node if graph is None else graph).get(node.domain)

    def look_over(self, node: oir.Node) -> None:
        """Treat a node that its operator's schema does not allow as one of which nothing is known."""
        shape = (node.domain, node.op_type, len(node.inputs), len(node.outputs))
        plain = not node.attributes and None not in node.inputs
        if plain and shape in self._well_formed:
            return
        version = self._version(node, None)
        if version is None:
            return
        reason = misuse(
            node.domain,
            node.op_type,
            version,
            tuple([v is not None for v in node.inputs]),
            len(node.outputs),
            frozenset([(name, int(attr.type)) for name, attr in node.attributes.items()]),
        )
        if reason is not None:
            self.refuse(node, reason)
        elif plain and not self.model.functions:
            self._well_formed.add(shape)

    def refuse(self, node: oir.Node, reason: str) -> None:
        """Treat a node that ONNX does not allow as one of which nothing is known: no rule will match it."""
        self._malformed.add(node)
        self.problems.append(f"{node.name or node.op_type}: {reason}")

    def _imports_of(self, where: oir.Graph | oir.Node | None) -> Mapping[str, int]:
        graph: oir.Graph | None = where.graph if type(where) is oir.Node else where  # type: ignore[assignment]
        return self._imports.get(graph, self.model.opset_imports) if graph is not None else self.model.opset_imports

    def register(self, graph: oir.Graph, imports: MutableMapping[str, int]) -> None:
        """Let the opsets of `graph`, a body or function, be `imports`; they are looked up anew each time."""
        self._imports[graph] = imports

    def imports(self, graph: oir.Graph) -> MutableMapping[str, int]:
        """The opsets in force in a graph."""
        return self._imports.get(graph, self.model.opset_imports)

    def import_domain(self, domain: str, graph: oir.Graph) -> None:
        """See to it that a graph imports a domain whose operators are nowhere described; as version 1, if it is new."""
        for imports in (self._imports.get(graph, self.model.opset_imports), self.model.opset_imports):
            imports.setdefault(domain, 1)

    # -- changes -------------------------------------------------------------------------------------------

    def infer(
        self,
        node: oir.Node,
        *,
        graph: oir.Graph | None = None,
        assume: Sequence[tuple[oir.DataType | None, Shape | None]] | None = None,
    ) -> None:
        """Infer the outputs of a new node from its inputs.

        `graph`: where the node will be, if it is nowhere yet. `assume`: dtype and shape of each output, believed
        only of an operator without a schema. Raises `Inconsistent` if the operator does not exist at the
        model's opset, or refuses its inputs or attributes.
        """
        facts = self.outputs(node, graph)
        if assume is not None and self.schema(node, graph) is None:
            facts = [f if f.dtype is not None else Fact(*alike) for f, alike in zip(facts, assume, strict=False)]
        for output, fact in zip(node.outputs, facts, strict=False):
            self.set(output, fact)

    def set(self, value: oir.Value, fact: Fact) -> None:
        """Take `fact` as the type of `value`; sizes that are unknown become symbols of their own."""
        if fact.shape is not None and None in fact.shape:
            fact = fact._replace(shape=tuple(self.fresh() if n is None else n for n in fact.shape))
        self._facts[value] = fact
        self._symbolic.forget(value)

    def add_constant(self, value: oir.Value) -> None:
        """Treat `value` as the constant in its `const_value`, before it is an initializer of a graph."""
        self._constants.add(value)

    def copy(self, old: oir.Value, new: oir.Value) -> None:
        """Give `new` the type of `old`."""
        self._facts[new] = self.fact(old)

    def renew_elements(self, value: oir.Value, better: Callable[[Shape | None, Shape | None], bool]) -> bool:
        """Work out anew what the elements of a value are; whether that is `better` than before, else they stay."""
        if not self._symbolic.is_computed(value):
            return False
        known, before = self._symbolic.of(value), self.symbolic(value)
        if before is None:
            return False
        self._symbolic.forget(value)
        if better(before, self.symbolic(value)):
            return True
        self._symbolic.keep(value, known)
        return False

    def forget(self, value: oir.Value) -> None:
        """Drop all that is known of a value that leaves the model."""
        self._facts.pop(value, None)
        self._constants.forget(value)
        self._symbolic.forget(value)

    def fresh(self, *, size: bool = True) -> Dim:
        """A symbol equal to nothing else."""
        return self.translator.fresh(size=size)

    # -- inference of one node -----------------------------------------------------------------------------

    def outputs(
        self, node: oir.Node, graph: oir.Graph | None = None, *, native: bool = True, quick: bool = True
    ) -> list[Fact]:
        """The types of a node's outputs, as its inputs determine them. Raises `Inconsistent`.

        `native`: ask onnx's own inference too, and not only the exact rules for symbolic sizes. `quick`: leave it out
        where the answer is plain, at the price of not noticing operands that do not fit.
        """
        nothing = [_UNKNOWN] * len(node.outputs)
        if node in self._malformed or (self._functions and node.op_identifier() in self._functions):
            return nothing
        imports = self._imports_of(node if graph is None else graph)
        version = imports.get(node.domain)
        schema = None if version is None else lookup(node.domain, node.op_type, version)
        if schema is None or version is None:
            reason = refusal(node.domain, node.op_type, version)
            if reason is not None:
                raise Inconsistent(reason)
            return self.contributed(node) if node.domain == contributed.CONTRIBUTED else nothing
        if node.op_type in control.CONTROL_FLOW and node.domain == "":
            return control.outputs(node, self.fact, self.translator, self._condition(node))
        if node.attributes and any(attr.is_ref() for attr in node.attributes.data.values()):
            return nothing
        inputs = [_UNKNOWN if v is None else self.fact(v) for v in node.inputs]
        plain = fast_types(node, version, inputs, _Site(self, node, version)) if quick else None
        if plain is not None:
            return plain
        found = self._native(node, schema, inputs, imports) if native else nothing
        if node.domain != "":
            return found
        if misjudged(node.op_type, version, lambda name: a.value if (a := node.attributes.get(name)) else None):
            found = [fact._replace(shape=None) for fact in found]
        return self._refined(node, version, found)

    def contributed(self, node: oir.Node) -> list[Fact]:
        """The types of the outputs of an operator of ONNX Runtime's own."""
        found = contributed.output_shapes(node.op_type, _Site(self, node, 1))
        if found is None or found[0] >= len(node.inputs) or (typed := node.inputs[found[0]]) is None:
            return [_UNKNOWN] * len(node.outputs)
        dtype = self.dtype(typed)
        known = [*found[1], *[None] * len(node.outputs)][: len(node.outputs)]
        return [Fact(None if i and shape is None else dtype, shape) for i, shape in enumerate(known)]

    def _condition(self, node: oir.Node) -> bool | None:
        """The condition of an If, where constants and shapes determine it."""
        value = node.inputs[0] if node.op_type == "If" and node.inputs else None
        found = None if value is None else self._symbolic.of(value)
        return bool(found.reshape(-1)[0]) if found is not None and found.size == 1 and found.dtype.kind == "b" else None

    def _native(
        self, node: oir.Node, schema: onnx.defs.OpSchema, inputs: list[Fact], imports: Mapping[str, int]
    ) -> list[Fact]:
        check_arity(schema, len(node.inputs), len(node.outputs))
        if node.op_type == "Constant" and node.domain == "":
            tensor = self._constants.tensor(node.outputs[0])
            if tensor is not None:
                return [Fact(tensor.dtype, sizes(tensor))]
        names = ["" if v is None else f"i{i}" for i, v in enumerate(node.inputs)]
        results = [f"o{i}" for i in range(len(node.outputs))]
        types = {n: self.translator.to_proto(fact) for n, fact in zip(names, inputs, strict=True) if n}
        data = {}
        for i, value in enumerate(node.inputs):
            array = None if value is None else self._contents(node.op_type, i, value)
            if array is not None:
                data[names[i]] = tensor_proto(names[i], array)
        proto = node_proto(node, names, results)
        try:
            inferred = infer_node(schema, proto, types, data, imports)
        except Inconsistent:
            # Some of its functions take an unknown size for 0 or for a wrong one: ask again without those.
            vague = [f if static(f.shape) else f._replace(shape=None) for f in inputs]
            if vague == inputs:
                raise
            types = {n: self.translator.to_proto(fact) for n, fact in zip(names, vague, strict=True) if n}
            inferred = infer_node(schema, proto, types, data, imports)
        invented: dict[str, Dim] = {}
        return [self.translator.from_proto(inferred.get(n, onnx.TypeProto()), invented) for n in results]

    def _contents(self, op: str, index: int, value: oir.Value) -> Array | None:
        """The numbers in an input that the shape of a result may depend on."""
        if index == 0 and op not in _SIZED_BY_FIRST:
            return None
        dtype = self.dtype(value)
        if dtype in (oir.DataType.INT64, oir.DataType.INT32) or (op in _SIZED_BY_FLOATS and dtype is not None):
            found = self._symbolic.of(value)
            if found is not None and found.dtype != object:
                return found
        return None

    def _refined(self, node: oir.Node, version: int, found: list[Fact]) -> list[Fact]:
        own = shapes.refine(node.op_type, _Site(self, node, version))
        return [merged(fact, own[i] if i < len(own) else None) for i, fact in enumerate(found)]


class _Site:
    """A node as `shapes.refine` sees it."""

    __slots__ = ("_facts", "_node", "inputs", "outputs", "version")

    def __init__(self, facts: Facts, node: oir.Node, version: int) -> None:
        self._facts = facts
        self._node = node
        self.version = version
        self.inputs = len(node.inputs)
        self.outputs = len(node.outputs)

    def shape(self, index: int) -> Shape | None:
        value = self._value(index)
        return None if value is None else self._facts.shape(value)

    def elements(self, index: int) -> tuple[int | Dim, ...] | None:
        value = self._value(index)
        return None if value is None else self._facts.symbolic(value)

    def array(self, index: int) -> Array | None:
        value = self._value(index)
        return None if value is None else self._facts.array(value)

    def given(self, index: int) -> bool:
        return self._value(index) is not None

    def attr(self, name: str, default: Any = None) -> Any:
        attr = self._node.attributes.get(name)
        return default if attr is None else attr.value

    def partners(self) -> list[Shape]:
        found: list[Shape] = []
        for use in self._node.outputs[0].uses():
            reader = use.node
            if reader.graph is self._node.graph and reader.op_type in shapes.BROADCASTING and reader.domain == "":
                others = [v for i, v in enumerate(reader.inputs) if v is not None and i != use.idx]
                found += [shape for shape in map(self._facts.shape, others) if shape is not None]
        return found

    def _value(self, index: int) -> oir.Value | None:
        return self._node.inputs[index] if index < self.inputs else None


