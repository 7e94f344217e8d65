"""A model whose `onnx_ir` values say what graphopt knows of them, for libraries that look there.

Types and shapes as inferred, the content of Constant nodes, and no content where a caller may supply another. All of
it is taken back at the end, so that the file that is written declares what the input declared.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import onnx_ir as oir

from graphopt.ir.dims import Dim
from graphopt.ir.model import Model

_Place = tuple[oir.Graph, str | None]


class Described:
    """Within the `with` block, the values of `model` are described; `add` describes those of new nodes."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._declared: dict[_Place, tuple[oir.TypeProtocol | None, oir.Shape | None]] = {}
        self._contents: dict[oir.Value, oir.TensorProtocol | None] = {}
        self._names: dict[str, Dim] = {}

    def __enter__(self) -> Described:
        for graph, value in _values(self._model):
            self._declared[graph, value.name] = (value.type, value.shape)
            self._describe(value)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for graph, value in _values(self._model):
            # By name: what replaced a value has its name, and is declared as that was.
            declared = self._declared.get((graph, value.name))
            if declared is not None or value.producer() is not None:
                value.type, value.shape = declared or (None, None)
        for value, content in self._contents.items():
            value.const_value = content

    def add(self, node: oir.Node) -> None:
        """Describe the outputs of a node that is new in the model."""
        for value in node.outputs:
            self._describe(value)

    def _describe(self, value: oir.Value) -> None:
        facts = self._model.facts
        fact = facts.fact(value)
        if fact.dtype is not None:
            value.type = oir.TensorType(fact.dtype)
            value.shape = None if fact.shape is None else oir.Shape([self._size(n) for n in fact.shape])
        content = facts.const(value)
        if content is not value.const_value:
            self._contents[value] = value.const_value
            value.const_value = content

    def _size(self, size: int | Dim | None) -> int | str | None:
        """A size that is no number by a name that no other size has."""
        if not isinstance(size, Dim):
            return size
        name = str(size)
        while self._names.setdefault(name, size) != size:
            name += "'"
        return name


def _values(model: Model) -> Iterator[tuple[oir.Graph, oir.Value]]:
    for graph in model.raw_graphs():
        for value in graph.inputs:
            yield graph, value
        for value in graph.initializers.values():
            if not value.is_graph_input():
                yield graph, value
        for node in graph:
            for value in node.outputs:
                yield graph, value
