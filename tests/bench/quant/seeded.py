"""A layer that breaks in 8 bits: whether it is found, and how often the metric is asked for that.

`python -m tests.bench.quant.seeded`. Layers of the trained fixtures are broken in turn, such that float computes what
it did and nothing is left in 8 bits: a channel that is always zero meets large weights (`weight`), or a channel is a
large constant that nobody reads (`activation`). Corrections would mend that, so they are left out. The goal: only what
was broken stays float, in at most 2 + log2(n) probes of the metric, n being the steps there are from all in 8 bits to
all in float. `more` says that others stay float, too; `unhurt`, that the metric holds with everything in 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import graphopt
from fixtures.accuracy import accuracy
from graphopt.ir.save import to_bytes

__all__ = ["Broken", "broken", "main"]

_FIXTURES = Path(__file__).parents[3] / "fixtures"
_LARGE = 1e4
_MOST = 4  # of a kind, for each fixture
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_BETWEEN = ("Relu", "HardSwish")
_PAIRS = (("Conv", "Conv"), ("LayerNormalization", "MatMul"))


@dataclass(frozen=True)
class Broken:
    """A model, what is broken in it (`kind`: of what), and the names of all that has to stay float for it."""

    model: onnx.ModelProto
    name: str
    kind: str
    names: frozenset[str]


class _Net:
    """A fused fixture, and who makes and reads its values."""

    def __init__(self, path: Path) -> None:
        fused = graphopt.optimize(path, "fuse", target="ort-cpu", verify=False).model
        self.model = onnx.load_from_string(to_bytes(fused.ir))
        self.nodes = list(self.model.graph.node)
        self.makers = {output: node for node in self.nodes for output in node.output}
        self.shapes = {t.name: tuple(t.dims) for t in self.model.graph.initializer}

    def readers(self, value: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if value in node.input]

    def source(self, node: onnx.NodeProto, *ops: str) -> onnx.NodeProto | None:
        """What makes the data of a node, behind operators of these kinds."""
        found = self.makers.get(node.input[0])
        while found is not None and found.op_type in ops:
            found = self.makers.get(found.input[0])
        return found

    def changed(self, *changes: tuple[str, Any, float]) -> onnx.ModelProto:
        """A copy of the model in which parts of constants have another value."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model)
        for name, where, value in changes:
            tensor = next(t for t in proto.graph.initializer if t.name == name)
            array = np.array(numpy_helper.to_array(tensor))
            array[where] = value
            tensor.CopyFrom(numpy_helper.from_array(array, name))
        return proto


def broken(path: Path) -> Iterator[Broken]:
    """The first layers of a fixture that can be broken, four of each kind."""
    net = _Net(path)
    heavy = [n for n in net.nodes if n.op_type in _WEIGHTED and len(net.shapes.get(n.input[1], ())) > 1]
    found = [case for node in heavy for make in (_weights, _activations, _summands) for case in make(net, node)]
    for kind in dict.fromkeys(case.kind for case in found):
        yield from [case for case in found if case.kind == kind][:_MOST]


def _weights(net: _Net, node: onnx.NodeProto) -> Iterator[Broken]:
    """Large weights on a channel that is zero, where the layer or the normalization in front can make it so."""
    weight = node.input[1]
    first = net.source(node, *_BETWEEN)
    if first is None or net.shapes[weight][1] == 1:
        return
    large = (weight, 0 if node.op_type == "MatMul" else (slice(None), 0), _LARGE)
    if len(first.input) != 3 or (first.op_type, node.op_type) not in _PAIRS:
        return
    proto = net.changed((first.input[1], 0, 0.0), (first.input[2], 0, 0.0), large)
    yield Broken(proto, node.name, "weight", frozenset([node.name]))


def _activations(net: _Net, node: onnx.NodeProto) -> Iterator[Broken]:
    """A channel that is large, and that the only layer behind does not read."""
    first = net.source(node, *_BETWEEN)
    if first is None or first.op_type != "Conv" or len(first.input) < 3 or node.op_type != "Conv":
        return
    value = node.input[0]
    if len(net.readers(value)) > 1 or len(net.readers(first.output[0])) > 1:
        return
    depthwise = net.shapes[node.input[1]][1] == 1
    unread = (node.input[1], 0 if depthwise else (slice(None), 0), 0.0)
    proto = net.changed((first.input[1], 0, 0.0), (first.input[2], 0, _LARGE), unread)
    names = frozenset([first.name, first.output[0], value, node.name])
    yield Broken(proto, value, "depthwise" if depthwise else "activation", names)


def _summands(net: _Net, node: onnx.NodeProto) -> Iterator[Broken]:
    """A channel that is far below zero in front of a sum and a Relu."""
    value = node.output[0]
    behind = net.readers(value)
    if node.op_type != "Conv" or len(node.input) < 3 or len(behind) != 1 or behind[0].op_type != "Add":
        return
    if any(reader.op_type == "Relu" for reader in net.readers(behind[0].output[0])):
        proto = net.changed((node.input[1], 0, 0.0), (node.input[2], 0, -_LARGE))
        yield Broken(proto, value, "summand", frozenset([value, node.name]))


def main() -> None:
    for fixture in ("residual_cnn", "depthwise_se", "vit"):
        for case in broken(_FIXTURES / "models" / f"{fixture}.onnx"):
            print(_judged(case))


def _judged(case: Broken) -> str:
    report = graphopt.optimize(
        case.model, "quant{correct=none,method=minmax}", target="ort-cpu", data=_FIXTURES / "data" / "digits_calib.npz",
        evaluate=accuracy, verify=False, force=True,
    ).report  # fmt: skip
    found = report.budget
    kept = {item.name for item in found.kept}
    most = 2 + math.log2(max(found.candidates, 1))
    missed = not kept & case.names or found.probes > most or not found.met
    unhurt = not found.candidates and found.met
    word = "unhurt" if unhurt else "MISSED" if missed else "ok" if kept <= case.names else "more"
    return (
        f"{word:7}{case.kind:11}{case.name[-60:]}: {found.probes} probes for {found.candidates} steps (at most {most:.1f}), "
        f"{found.before:.2f} → {found.after:.2f} %, {len(kept)} kept float"
    )


if __name__ == "__main__":
    main()
