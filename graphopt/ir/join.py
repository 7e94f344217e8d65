"""Two models in a row as one: what comes before a network, such as decoding an image, or after it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as oir

from graphopt.errors import ModelError, UsageError, nearest
from graphopt.ir.value import bodies_of

__all__ = ["join"]


def join(first: oir.Model, second: oir.Model, connect: Mapping[str, str], *, where: str) -> None:
    """Put `second` behind `first`, which then holds both; neither may be used by anybody else.

    `connect`: the input of `second` for outputs of `first`; without it, by equal names, or the only output to the only
    input. What is connected is no input or output any more; of the others the names must differ. Names within
    `second` that `first` has already are changed. `where` names the other model in errors: `UsageError` if they do not
    fit, `ModelError` if they use different versions of an operator set.
    """
    _check_opsets(first, second, where)
    outputs = {v.name or "": v for v in first.graph.outputs}
    inputs = {v.name or "": v for v in second.graph.inputs if not v.is_initializer()}
    pairs = _pairs(outputs, inputs, connect, where)
    for out, into in pairs.items():
        _check_types(outputs[out], inputs[into], where)
    _make_names_differ(first.graph, second.graph, set(pairs.values()))
    for out, into in pairs.items():
        _connect(second.graph, inputs[into], outputs[out])
    _merge(first, second, [outputs[out] for out in pairs], [inputs[into] for into in pairs.values()])


def _check_opsets(first: oir.Model, second: oir.Model, where: str) -> None:
    for domain, version in second.graph.opset_imports.items():
        other = first.graph.opset_imports.get(domain)
        if other is not None and other != version:
            raise ModelError(
                f"the models use different versions of {domain or 'the standard operators'}: {other} and {version}",
                where=where, hint="convert one of them first: graphopt run MODEL -O0 --opset N",
            )  # fmt: skip
    shared = first.functions.keys() & second.functions.keys()
    if shared:
        name = "::".join(part for part in min(shared) if part)
        raise ModelError(f"both models have a local function {name}", where=where, hint="inline it first: -p inline")


def _pairs(
    outputs: Mapping[str, oir.Value], inputs: Mapping[str, oir.Value], connect: Mapping[str, str], where: str
) -> dict[str, str]:
    for kind, wanted, known in (("output", connect.keys(), outputs), ("input", connect.values(), inputs)):
        for name in wanted:
            if name not in known:
                hint = nearest(name, list(known))
                raise UsageError(f"there is no {kind} {name!r} to connect", where=where, hint=hint)
    if len(set(connect.values())) < len(connect):
        raise UsageError("two outputs are connected to one input", where=where)
    if connect:
        return dict(connect)
    same = {name: name for name in outputs if name in inputs}
    if same:
        return same
    if len(outputs) == len(inputs) == 1:
        return {next(iter(outputs)): next(iter(inputs))}
    raise UsageError(
        f"it is not clear what belongs together: outputs {', '.join(outputs)}; inputs {', '.join(inputs)}",
        where=where, hint="say it: --connect OUTPUT=INPUT",
    )  # fmt: skip


def _check_types(out: oir.Value, into: oir.Value, where: str) -> None:
    if out.type is not None and into.type is not None and out.type != into.type:
        raise UsageError(f"{out.name!r} is {out.type}, and {into.name!r} takes {into.type}", where=where)
    if out.shape is None or into.shape is None:
        return
    fits = len(out.shape) == len(into.shape) and all(
        a == b or not isinstance(a, int) or not isinstance(b, int) for a, b in zip(out.shape, into.shape, strict=True)
    )
    if not fits:
        raise UsageError(f"{out.name!r} is {out.shape}, and {into.name!r} takes {into.shape}", where=where)


def _make_names_differ(first: oir.Graph, second: oir.Graph, connected: set[str]) -> None:
    taken = {name for v in _values(first) if (name := v.name)} | {n.name for n in first.all_nodes() if n.name}
    fixed = {v.name for v in (*second.inputs, *second.outputs) if v.name not in connected}
    for name in sorted(n for n in fixed if n and n in taken):
        raise UsageError(f"both models have a value {name!r}", hint="rename an input or output first: --rename OLD=NEW")
    initializers = dict(second.initializers)
    for value in _values(second):
        if value.name in taken and value.name not in fixed:
            value.name = _fresh(value.name or "", taken)
        taken.add(value.name or "")
    for name, value in initializers.items():
        if value.name != name:
            second.initializers.pop(name, None)
            second.initializers[value.name or ""] = value
    for node in second.all_nodes():
        if node.name in taken:
            node.name = _fresh(node.name or "", taken)


def _fresh(name: str, taken: set[str]) -> str:
    count = 1
    while f"{name}_{count}" in taken:
        count += 1
    taken.add(f"{name}_{count}")
    return f"{name}_{count}"


def _values(graph: oir.Graph) -> list[oir.Value]:
    """All values that a graph and its bodies define."""
    found: dict[oir.Value, None] = {}
    pending = [graph]
    while pending:
        inner = pending.pop()
        found.update(dict.fromkeys((*inner.inputs, *inner.initializers.values())))
        for node in inner:
            found.update(dict.fromkeys(node.outputs))
            pending.extend(bodies_of(node))
    return list(found)


def _connect(graph: oir.Graph, into: oir.Value, out: oir.Value) -> None:
    for use in list(into.uses()):
        use.node.replace_input_with(use.idx, out)
    for i, output in enumerate(graph.outputs):
        if output is into:
            graph.outputs[i] = out


def _merge(first: oir.Model, second: oir.Model, outs: list[oir.Value], intos: list[oir.Value]) -> None:
    graph, other = first.graph, second.graph
    nodes, results = list(other), list(other.outputs)
    rest = [v for v in other.inputs if v not in intos]
    initializers = list(other.initializers.values())
    other.outputs.clear()
    other.inputs.clear()
    other.initializers.clear()
    other.remove(nodes)
    kept = [v for v in graph.outputs if v not in outs]
    graph.inputs.extend(rest)
    for value in initializers:
        graph.initializers[value.name or ""] = value
    graph.extend(nodes)
    graph.outputs[:] = [*kept, *results]
    for domain, version in other.opset_imports.items():
        graph.opset_imports.setdefault(domain, version)
    first.functions.update(second.functions)
    first.ir_version = max(first.ir_version, second.ir_version)
