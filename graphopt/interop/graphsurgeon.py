"""onnx-graphsurgeon's `Graph`, in and out; the package is imported only when one of its graphs is met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as oir

from graphopt.errors import ModelError, UsageError

# The types of attributes that the library keeps; it skips all others.
_HELD = frozenset({"FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS"})


def to_proto(graph: Any) -> onnx.ModelProto:
    """The model that a graphsurgeon graph stands for. Raises `ModelError` where it cannot be exported."""
    import onnx_graphsurgeon as gs

    try:
        model: onnx.ModelProto = gs.export_onnx(_shielded(graph))
    except Exception as error:  # its own exception class is not public
        reason = str(error).partition("\n")[0]
        raise ModelError(f"onnx-graphsurgeon cannot export this graph: {reason}") from error
    return model


def from_proto(model: onnx.ModelProto) -> Any:
    """The graphsurgeon graph of a model."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(model)


def require_held(nodes: Iterable[oir.Node]) -> None:
    """Raise `UsageError` for an attribute that the library would drop without a word."""
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.type.name not in _HELD and not attribute.is_ref():
                raise UsageError(
                    f"onnx-graphsurgeon cannot hold the attribute {attribute.name!r} of type {attribute.type.name}",
                    where=f"node {node.name or node.op_type!r}",
                    hint="ask for another kind of model: as_='proto' or as_='ir'",
                )


def _shielded(graph: Any) -> Any:
    """A stand-in to export: the exporter adds the domains it finds to the lists of the graph it is given."""
    stand_in = _twin(graph)
    stand_in.functions = [_twin(function) for function in graph.functions]
    for part in (stand_in, *stand_in.functions):
        if part.import_domains is not None:
            part.import_domains = list(part.import_domains)
    return stand_in


def _twin(graph: Any) -> Any:
    """A shallow copy. `copy.copy` cannot make one: the class looks attributes up before it has any."""
    twin = object.__new__(type(graph))
    twin.__dict__.update(graph.__dict__)
    return twin
