"""The tests that come with the package onnx: one model for each operator and attribute, and a few networks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper

_DATA = Path(onnx.backend.test.__file__).parent / "data"
_FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True, eq=False)
class Case:
    """A model with inputs and the outputs that are expected of it; sequences are lists, None is an empty optional."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    expected: dict[str, Any]
    rtol: float = 1e-3
    atol: float = 1e-7

    @property
    def plain(self) -> bool:
        """Whether all inputs are tensors."""
        return all(isinstance(value, np.ndarray | np.generic) for value in self.inputs.values())


@functools.cache
def cases() -> list[Case]:
    return [*_of_operators(), *_of_folders()]


def _of_operators() -> Iterator[Case]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = collect_testcases("")
    for test in found:
        if test.model is None:
            continue
        graph = test.model.graph
        defaults = {tensor.name for tensor in graph.initializer}
        names = [v.name for v in graph.input if v.name not in defaults] if defaults else [v.name for v in graph.input]
        for number, (inputs, outputs) in enumerate(test.data_sets or ()):
            given = dict(zip(names, inputs, strict=False))
            expected = dict(zip([v.name for v in graph.output], outputs, strict=False))
            yield Case(f"{test.name}:{number}" if number else test.name, test.model, given, expected, test.rtol, test.atol)


def _of_folders() -> Iterator[Case]:
    for kind in _FOLDERS:
        for folder in sorted((_DATA / kind).iterdir()):
            model = onnx.load(folder / "model.onnx")
            for data in sorted(folder.glob("test_data_set_*")):
                defaults = {tensor.name for tensor in model.graph.initializer}
                values = [v for v in model.graph.input if v.name not in defaults]
                inputs = {v.name: _read(data / f"input_{i}.pb", v.type) for i, v in enumerate(values)}
                expected = {v.name: _read(data / f"output_{i}.pb", v.type) for i, v in enumerate(model.graph.output)}
                yield Case(f"{folder.name}", model, inputs, expected)


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))
