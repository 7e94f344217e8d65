"""ONNX files: with the operator sets that are used and no others, and never one that does not check."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import onnx

from graphopt.emit.emitter import EmitOptions, Emitted, Emitter
from graphopt.errors import VerificationError

if TYPE_CHECKING:
    import onnx_ir as oir

    from graphopt.ir.model import Model
    from graphopt.ir.save import Written

_UNREGISTERED = "graphopt.unregistered"


class OnnxEmitter(Emitter):
    """Writes an ONNX model (`.onnx`), with its weights inside or in a data file beside it."""

    name: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)

    def emit(self, model: Model, path: Path, options: EmitOptions) -> Emitted:
        """Check the structure, write the file, read its structure back, and only then let it replace an old one.

        Raises `VerificationError` for a model that onnx's checker refuses or that does not load again, and
        `UsageError` if the file cannot be written.
        """
        from graphopt.ir.save import write_model

        def loads(file: Path) -> None:
            _read_back(file, len(model.ir.graph), path)

        with _minimal_imports(model):
            written = write_model(model.ir, path, source=model.source, external=options.external, strip=options.strip,
                                  inspect=lambda proto: _check(model, proto, path), check=loads)
        notes = tuple(_notes(model, written, options))
        return Emitted(written.files, written.model_bytes + written.data_bytes, notes)


def check_structure(model: Model, path: Path) -> None:
    """What `emit` checks before it writes to `path`. Raises `VerificationError`."""
    from graphopt.ir.dump import dump

    def empty(header: onnx.TensorProto, _tensor: oir.TensorProtocol, _initializer: bool) -> None:
        header.dims[:] = [0]

    with _minimal_imports(model):
        _check(model, dump(model.ir, empty), path)


def _check(model: Model, proto: onnx.ModelProto, path: Path) -> None:
    """onnx's checker on the structure: it looks for the files of external data, so no tensor keeps any."""
    for info in (*proto.graph.input, *proto.graph.output):
        if info.type.HasField("tensor_type"):
            # The checker wants to see a rank; neither the format nor a runtime does.
            info.type.tensor_type.shape.SetInParent()
    _set_aside_unregistered(model, proto)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise VerificationError(
            f"the result is not a valid ONNX model: {' '.join(str(error).split())}",
            where=os.fspath(path),
            hint="nothing was written; find the rewrite to blame with graphopt bisect",
        ) from error


def _set_aside_unregistered(model: Model, proto: onnx.ModelProto) -> None:
    """Take operators out of the checker's sight that the input had already, and that ONNX does not know.

    Old files have operators that were withdrawn, for which the checker prints a line to standard output, and
    some that only ONNX Runtime knows in the standard domain.
    """
    from graphopt.ir.schemas import lookup

    version = model.opset()
    original = model.source.proto if model.source else None
    operators = {node.op_type for node in _nodes(proto) if not node.domain}
    if original is not None:
        operators &= {node.op_type for node in _nodes(original) if not node.domain}
    unknown = {operator for operator in operators if lookup("", operator, version) is None}
    if not unknown:
        return
    for node in _nodes(proto):
        if not node.domain and node.op_type in unknown:
            node.domain = _UNREGISTERED
    for owner in (proto, *proto.functions):
        owner.opset_import.add(domain=_UNREGISTERED, version=1)


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending: list[Iterable[onnx.NodeProto]] = [proto.graph.node, *(f.node for f in proto.functions)]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                pending.extend(graph.node for graph in (attribute.g, *attribute.graphs) if graph.node)


def _read_back(file: Path, nodes: int, path: Path) -> None:
    """Scan and parse what was written to `file` and is to become `path`, weights aside."""
    from google.protobuf.message import DecodeError

    from graphopt.ir.tensors import FileRef
    from graphopt.ir.wire import WireError, strip

    try:
        proto = onnx.ModelProto.FromString(strip(FileRef(file).map(), "weights")[0])
    except (WireError, DecodeError) as error:
        raise VerificationError(f"the file does not load again: {error}", where=os.fspath(path)) from error
    if len(proto.graph.node) != nodes:
        what = f"the file has {len(proto.graph.node)} of the {nodes} nodes that were written"
        raise VerificationError(what, where=os.fspath(path))


@contextmanager
def _minimal_imports(model: Model) -> Iterator[None]:
    """While the block runs, the model imports the operator sets that its nodes use.

    What no node uses is dropped. A custom operator set that is used but was not imported, which runtimes let
    pass, is added in version 1. The standard one always stays: ONNX Runtime wants to see it.
    """
    functions = list(model.ir.functions.values())
    used: set[str] = {function.domain for function in functions}
    per_graph: list[tuple[MutableMapping[str, int], set[str]]] = []
    for function in functions:
        domains = _domains(function.graph)
        per_graph.append((function.graph.opset_imports, domains))
        used |= domains
    per_graph.append((model.ir.graph.opset_imports, used | _domains(model.ir.graph)))
    before = [dict(imports) for imports, _ in per_graph]
    try:
        for imports, domains in per_graph:
            known = [d for d in imports if d in domains or d == ""]
            missing = sorted(domains - set(imports))
            _set(imports, {d: imports.get(d, 1) for d in [*known, *missing]})
        yield
    finally:
        for (imports, _), old in zip(per_graph, before, strict=True):
            _set(imports, old)


def _set(imports: MutableMapping[str, int], to: dict[str, int]) -> None:
    imports.clear()
    imports.update(to)


def _domains(graph: oir.Graph) -> set[str]:
    """The domains of the nodes of a graph and of the bodies in it."""
    from graphopt.ir.value import bodies_of

    domains: set[str] = set()
    pending = [graph]
    while pending:
        for node in pending.pop():
            domains.add(node.domain)
            pending.extend(bodies_of(node))
    return domains


def _notes(model: Model, written: Written, options: EmitOptions) -> Iterator[str]:
    if model.source and model.source.ignored:
        yield f"left out what the installed onnx does not know: {', '.join(model.source.ignored)}"
    was_external = model.source is not None and model.source.external
    if written.data_bytes and options.external is None and not was_external:
        yield f"the weights lie in {written.files[-1].name}, as a model file holds at most 2 GB"
