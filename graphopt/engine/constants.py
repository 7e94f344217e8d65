"""Computing constants: small and simple ones in this process, all others in the sandbox.

Nothing computed here can end the process or hang it. Integer Div and Mod, of which ONNX Runtime
dies at INT_MIN / -1 and at zero, are computed by our own kernels, which refuse those operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.model import Model
from graphopt.ir.numeric import Undefined, Unsupported, evaluate
from graphopt.ir.value import Node, Value

_HERE = 1 << 20  # bytes of operands and results up to which a node is computed in this process
_LIVE = 8  # results of the size of the budget that the sandbox may hold at a time

Values = dict[Value, np.ndarray]
Decliner = Callable[[Node, str], None]


def compute(
    model: Model, nodes: Sequence[Node], wanted: Sequence[Value], *, budget: int, timeout: float, decline: Decliner
) -> Values:
    """Values of `wanted`, outputs of `nodes`, which read constants and each other, in topological order.

    What cannot be computed is left out of the result, after a call of `decline` with the reason.
    """
    known: Values = {}
    later: list[Node] = []
    waiting: set[Value] = set()
    for node in nodes:
        if any(v in waiting for v in node.inputs if v is not None):
            later.append(node)
        elif not _compute_here(node, known, budget, decline, later):
            waiting.update(node.outputs)
            continue
        else:
            continue
        waiting.update(node.outputs)
    if later:
        known.update(_compute_in_sandbox(model, later, known, wanted, budget, timeout, decline))
    return {v: known[v] for v in wanted if v in known}


def _compute_here(
    node: Node, known: Values, budget: int, decline: Decliner, later: list[Node]
) -> bool:
    """Whether the node was computed by our own kernels; otherwise it is put off, or declined for good."""
    operands = [None if v is None else known[v] if v in known else v.array() for v in node.inputs]
    integer_division = node.op in ("Div", "Mod") and any(a is not None and a.dtype.kind in "iu" for a in operands)
    size = sum(a.nbytes for a in operands if a is not None)
    if size > _HERE and not integer_division:
        later.append(node)
        return False
    try:
        results = evaluate(
            node.op, "", node.version, operands, node.attrs, n_outputs=len(node.outputs),
            budget=budget if integer_division else _HERE, wide=False,
        )
    except Undefined as reason:
        decline(node, str(reason))
        return False
    except Unsupported as reason:
        if integer_division:
            decline(node, str(reason))
        else:
            later.append(node)
        return False
    known.update(zip(node.outputs, results, strict=True))
    return True


def _compute_in_sandbox(
    model: Model, nodes: Sequence[Node], known: Mapping[Value, np.ndarray], wanted: Sequence[Value], budget: int,
    timeout: float, decline: Decliner,
) -> Values:
    from graphopt.runtime.executor import ExecutorError
    from graphopt.runtime.package import package
    from graphopt.runtime.run import run_model

    region, names = _region(model, nodes, known, set(wanted))
    if not names:
        return {}
    packed = package(region)
    memory = _LIVE * budget + 2 * packed.weight_bytes
    try:
        outputs = run_model(packed, {}, timeout=timeout, memory=memory)
    except ExecutorError as error:
        for node in nodes:
            decline(node, f"the sandbox could not compute it: {error.what}")
        return {}
    return {names[name]: array for name, array in outputs.items() if name in names}


def _region(
    model: Model, nodes: Sequence[Node], known: Mapping[Value, np.ndarray], wanted: set[Value]
) -> tuple[oir.Model, dict[str, Value]]:
    """The nodes as a model of their own without inputs, and which output stands for which value."""
    copies: dict[Value, oir.Value] = {}
    initializers: list[oir.Value] = []
    made: list[oir.Node] = []
    outputs: dict[str, Value] = {}
    inside = {o for n in nodes for o in n.outputs}

    def copy(value: Value) -> oir.Value | None:
        if value in copies:
            return copies[value]
        if value in inside:
            return None  # its producer was left out
        tensor: Any = oir.tensor(known[value]) if value in known else value.tensor
        copies[value] = oir.Value(name=f"c{len(copies)}", const_value=tensor)
        initializers.append(copies[value])
        return copies[value]

    for node in nodes:
        inputs = [None if v is None else copy(v) for v in node.inputs]
        if any(c is None and v is not None for c, v in zip(inputs, node.inputs, strict=True)):
            continue
        twin = oir.node(node.op, inputs, node.attrs, num_outputs=len(node.outputs), name=f"n{len(made)}")
        for mine, value in zip(twin.outputs, node.outputs, strict=True):
            mine.name = f"c{len(copies)}"
            if value.dtype is not None:
                mine.type = oir.TensorType(value.dtype)
            copies[value] = mine
            if value in wanted:
                outputs[mine.name] = value
        made.append(twin)
    graph = oir.Graph(
        [], [copies[v] for v in outputs.values()], nodes=made, initializers=initializers,
        opset_imports={"": model.opset()}, name="constants",
    )
    return oir.Model(graph, ir_version=model.ir.ir_version), outputs
