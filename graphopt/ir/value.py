"""What passes and rules see of a graph: `Value`, `Node` and `Graph`, thin views on `onnx_ir` objects.

A view holds no state of its own, so two views of one object are equal and hash alike. Views cannot
change a graph; that is the `Editor`'s job (`graphopt.ir.edit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx_ir as oir

from graphopt.ir.draft import Decline

if TYPE_CHECKING:
    from graphopt.ir.dims import Dim
    from graphopt.ir.model import Model

DType = oir.DataType
_GRAPH, _GRAPHS = oir.AttributeType.GRAPH, oir.AttributeType.GRAPHS
FUNCTION_BODY = "graphopt.function"  # mark of a function's body, in the graph's `meta`
T = TypeVar("T")


class _View:
    """A view of one `onnx_ir` object within a model; equal to every other view of the same object."""

    __slots__ = ("_model", "_raw")

    _raw: Any
    _model: Model

    def __init__(self, model: Model, raw: Any) -> None:
        self._model = model
        self._raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _View) and self._raw is other._raw

    def __hash__(self) -> int:
        return hash(self._raw)


class Value(_View):
    """A tensor that flows along an edge, or a constant."""

    __slots__ = ()
    _raw: oir.Value

    @property
    def name(self) -> str:
        return self._raw.name or ""

    @property
    def dtype(self) -> DType | None:
        """Element type, or None where it is not known."""
        return self._model.facts.dtype(self._raw)

    @property
    def shape(self) -> tuple[int | Dim | None, ...] | None:
        """One entry per axis: an int, a symbolic `Dim`, or None where unknown. None: the rank is unknown."""
        return self._model.facts.shape(self._raw)

    @property
    def rank(self) -> int | None:
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def is_const(self) -> bool:
        """Whether the content is fixed: an initializer that no caller can override, or a Constant."""
        return self._model.facts.const(self._raw) is not None

    def array(self) -> np.ndarray | None:
        """The content of a constant, else None. Reads the weight from its file; do not keep it."""
        return self._model.facts.array(self._raw)

    def content(self) -> np.ndarray:
        """`array` of what is known to be a constant."""
        array = self.array()
        assert array is not None, f"{self!r} is no constant"
        return array

    @property
    def nbytes(self) -> int | None:
        """Bytes of a constant's content, without reading it; None for anything else."""
        tensor = self._model.facts.const(self._raw)
        return None if tensor is None else int(tensor.nbytes)

    @property
    def sample(self) -> tuple[bytes, ...] | None:
        """A few bytes of a constant, by which most different ones are told apart without reading them."""
        return self._model.facts.sample(self._raw)

    def excerpt(self, pieces: int = 64, length: int = 256) -> np.ndarray | None:
        """Elements of a constant from `pieces` evenly spaced places, `length` from each, as an array of one axis.

        All elements where that is no more. None for anything but a constant of numbers of at least a byte.
        """
        return self._model.facts.excerpt(self._raw, pieces, length)

    @property
    def tensor(self) -> Any:
        """The stored tensor of a constant (an `onnx_ir.TensorProtocol`), else None."""
        return self._model.facts.const(self._raw)

    @property
    def splat(self) -> Any:
        """The one number that every element of a constant equals bit for bit, else None."""
        return self._model.facts.splat(self._raw)

    @property
    def symbolic(self) -> tuple[int | Dim, ...] | None:
        """The elements of a small integer tensor, as far as shapes determine them."""
        return self._model.facts.symbolic(self._raw)

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of all elements that are not NaN, as far as the operators that make them tell."""
        from graphopt.ir.interval import interval  # which reads values itself

        return interval(self)

    @property
    def producer(self) -> Node | None:
        node = self._raw.producer()
        return None if node is None else Node(self._model, node)

    @property
    def alive(self) -> bool:
        """Whether the value is still part of the model."""
        node = self._raw.producer()
        return self._raw.graph is not None if node is None else self._model.is_alive(node)

    @property
    def index(self) -> int | None:
        """Which output of its producer this is."""
        return self._raw.index()

    def uses(self) -> list[tuple[Node, int]]:
        """Every (node, input index) that reads this value, in bodies of If, Loop and Scan too."""
        return [(Node(self._model, use.node), use.idx) for use in self._raw.uses()]

    @property
    def use_count(self) -> int:
        """Readers, a place among the graph's outputs counted as one."""
        return count_uses(self._raw) + int(self.is_output)

    @property
    def is_input(self) -> bool:
        """Whether a caller may supply it. An initializer that is also an input can be overridden."""
        return self._raw.is_graph_input()

    @property
    def is_output(self) -> bool:
        return self._raw.is_graph_output()

    @property
    def is_initializer(self) -> bool:
        return self._raw.is_initializer()

    @property
    def graph(self) -> Graph | None:
        graph = self._raw.graph
        return Graph(self._model, graph) if isinstance(graph, oir.Graph) else None

    def __repr__(self) -> str:
        return f"Value({self.name!r})"


class Node(_View):
    """One operator of a graph."""

    __slots__ = ()
    _raw: oir.Node

    @property
    def name(self) -> str:
        """The node's name; unnamed nodes are called after their first output."""
        raw = self._raw
        if raw.name:
            return raw.name
        return next((f"{raw.op_type} of {o.name!r}" for o in raw.outputs if o.name), raw.op_type)

    @property
    def op(self) -> str:
        return self._raw.op_type

    @property
    def domain(self) -> str:
        """The operator's domain; the standard operators have the empty one."""
        return self._raw.domain

    @property
    def is_standard(self) -> bool:
        """Whether this is ONNX's own operator, and not a local function of the same name."""
        return self._raw.domain == "" and self._model.facts.schema(self._raw) is not None

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        model = self._model
        return tuple([None if v is None else Value(model, v) for v in self._raw.inputs])

    @property
    def outputs(self) -> tuple[Value, ...]:
        model = self._model
        return tuple([Value(model, v) for v in self._raw.outputs])

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes that are set, as Python values (`Graph` for bodies)."""
        return {name: self._python(attr) for name, attr in self._raw.attributes.items()}

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; if unset, its default in the schema; without one, `default`.

        Raises `Decline` in a function's body for one that each caller of the function sets.
        """
        attr = self._raw.attributes.get(name)
        if attr is not None:
            if attr.is_ref():
                raise Decline(f"the attribute {name} is set by whoever calls the function")
            return self._python(attr)
        schema_default = self._model.facts.default_attr(self._raw, name)
        return default if schema_default is None else schema_default

    @property
    def effective_attrs(self) -> dict[str, Any]:
        """The attributes that are set, and the schema's defaults of those that are not."""
        return {**self._model.facts.default_attrs(self._raw), **self.attrs}

    def _python(self, attr: oir.Attr) -> Any:
        if attr.is_ref():
            return attr
        if attr.type == oir.AttributeType.GRAPH:
            return Graph(self._model, attr.value)
        if attr.type == oir.AttributeType.GRAPHS:
            return [Graph(self._model, g) for g in attr.value]
        return attr.value

    @property
    def graph(self) -> Graph:
        graph = self._raw.graph
        assert graph is not None, "a node outside of any graph has been removed"
        return Graph(self._model, graph)

    @property
    def alive(self) -> bool:
        """Whether the node is still part of the model."""
        return self._model.is_alive(self._raw)

    @property
    def bodies(self) -> list[Graph]:
        """The graphs held in attributes: the branches of an If, the body of a Loop or Scan."""
        return [Graph(self._model, g) for g in bodies_of(self._raw)]

    @property
    def version(self) -> int:
        """The opset version of the node's domain, 0 if the model does not import it."""
        return self._model.facts.opset(self._raw.domain, self._raw) or 0

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._raw.metadata_props

    def bind(self, expression: T) -> T:
        """In a pattern: capture the node that `expression` matches. Elsewhere a TypeError."""
        raise TypeError(f"bind() belongs in a rule's pattern; {self!r} is a matched node")

    def __repr__(self) -> str:
        return f"Node({self.op} {self.name!r})"


class Graph(_View):
    """The main graph, a body of If, Loop or Scan, or a function's body."""

    __slots__ = ()
    _raw: oir.Graph

    @property
    def name(self) -> str:
        return self._raw.name or ""

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes in topological order; editing while iterating is safe."""
        model = self._model
        return (Node(model, n) for n in nodes_of(self._raw))

    def find(self, *ops: str) -> Iterator[Node]:
        """The nodes that are one of these operators, of any domain, in order; faster than looking at all of `nodes`."""
        model = self._model
        if not model.may_have(self._raw, ops):
            return iter(())
        return (Node(model, n) for n in nodes_of(self._raw) if n._op_type in ops)

    def unread(self) -> list[Node]:
        """The nodes of which no output is read and none is a graph output."""
        model = self._model
        return [
            Node(model, n) for n in nodes_of(self._raw)
            if not any(count_uses(o) or o.is_graph_output() for o in n.outputs)
        ]

    def __len__(self) -> int:
        return len(self._raw)

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(Value(self._model, v) for v in self._raw.inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(Value(self._model, v) for v in self._raw.outputs)

    @property
    def initializers(self) -> tuple[Value, ...]:
        return tuple(Value(self._model, v) for v in self._raw.initializers.values())

    @property
    def is_main(self) -> bool:
        return self._raw is self._model.ir.graph

    @property
    def holder(self) -> Node | None:
        """The node in one of whose attributes this body stands; None for the main graph and those of functions."""
        node = self._model.holders.get(self._raw)
        return None if node is None else Node(self._model, node)

    @property
    def outermost(self) -> Graph:
        """The main graph or that of a function: this graph itself, or the one around all bodies that it stands in."""
        graph: Graph = self
        while (holder := graph.holder) is not None:
            graph = holder.graph
        return graph

    @property
    def is_function(self) -> bool:
        """Whether this is a local function's body, which takes part in the model once per call."""
        return self._raw.meta.get(FUNCTION_BODY) is True

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {len(self)} nodes)"


def nodes_of(graph: oir.Graph) -> Iterator[oir.Node]:
    """The nodes in order, as `graph` itself gives them, also while it changes; it takes three times as long."""
    end = graph._nodes._root
    box = end.next
    while box is not end:
        node: Any = box.value  # None once it was removed, while somebody stands there
        if node is not None:
            yield node
        box = box.next


def count_uses(value: oir.Value) -> int:
    """How many inputs read a value. `uses()` copies them all, which adds up where thousands share a constant."""
    return len(value._uses)


def bodies_of(node: oir.Node) -> list[oir.Graph]:
    """The graphs in a node's attributes, in the attributes' order."""
    found: list[oir.Graph] = []
    for attr in node.attributes.data.values():  # of the dict itself: the other way takes five times as long
        kind = attr.type
        if kind is _GRAPH and not attr.is_ref():
            found.append(attr.value)
        elif kind is _GRAPHS and not attr.is_ref():
            found.extend(attr.value)
    return found
