"""A layer that breaks in 8 bits: whether it is found, and how often the metric is asked for that.

`python -m tests.bench.quant.seeded`. Each convolution behind Convolution and Relu is broken in turn: one channel of its
input becomes zero throughout, and the weights on that channel large, so that nothing is left of the others in 8 bits
and float computes what it did. Corrections would mend that, so they are left out. The goal: only that layer stays
float, in at most 2 + log2(n) probes of the metric, n being the steps there are from all in 8 bits to all in float.
`more` says that others stay float, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import graphopt
from fixtures.accuracy import accuracy
from graphopt.ir.save import to_bytes

__all__ = ["broken", "main"]

_FIXTURES = Path(__file__).parents[3] / "fixtures"
_LARGE = 1e4


def broken(path: Path) -> Iterator[tuple[onnx.ModelProto, str]]:
    """The fused model with one layer broken, and the name of that layer; once for each layer that can be."""
    fused = graphopt.optimize(path, "fuse", target="ort-cpu", verify=False).model
    whole = onnx.load_from_string(to_bytes(fused.ir))
    makers = {output: node for node in whole.graph.node for output in node.output}
    for node in whole.graph.node:
        relu = makers.get(node.input[0]) if node.op_type == "Conv" else None
        first = makers.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
        if first is not None and first.op_type == "Conv" and len(first.input) == 3:
            proto = onnx.ModelProto()
            proto.CopyFrom(whole)
            _change(proto, first.input[1], 0, 0.0)
            _change(proto, first.input[2], 0, -1.0)
            _change(proto, node.input[1], (slice(None), 0), _LARGE)
            yield proto, node.name


def _change(proto: onnx.ModelProto, name: str, where: int | tuple[slice, int], value: float) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    array = np.array(numpy_helper.to_array(tensor))
    array[where] = value
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def main() -> None:
    for proto, name in broken(_FIXTURES / "models" / "residual_cnn.onnx"):
        report = graphopt.optimize(
            proto, "quant{correct=none,method=minmax}", target="ort-cpu", data=_FIXTURES / "data" / "digits_calib.npz",
            evaluate=accuracy, verify=False, force=True,
        ).report  # fmt: skip
        found = report.budget
        kept = [item.name for item in found.kept]
        most = 2 + math.log2(max(found.candidates, 1))
        word = "MISSED" if name not in kept or found.probes > most else "ok" if kept == [name] else "more"
        print(
            f"{word:7}{name}: {found.probes} probes for {found.candidates} steps (at most {most:.1f}), "
            f"{found.before:.2f} → {found.after:.2f} %, {len(kept)} kept float"
        )


if __name__ == "__main__":
    main()
