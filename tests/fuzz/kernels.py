"""Which nodes ONNX Runtime has a kernel for: asked in the child process, once for each operator and its dtypes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper, numpy_helper

from graphopt.check.opsets import schema_at, version_of
from graphopt.runtime.executor import ExecutorError, executor
from tests.fuzz.values import Val

_TIMEOUT = 20.0
_ABSENT = ("implementation", "Type Error", "is invalid", "not a registered")
_TYPED = ("to", "dtype")


class Kernels:
    """Answers, and what is known so far. What it says of a node depends on the operator and its dtypes only."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], bool] = {}

    def __call__(self, node: onnx.NodeProto, given: Sequence[Val | None], opset: int) -> bool:
        schema = schema_at(node.domain, node.op_type, version_of(node.domain, opset))
        dtypes = tuple(0 if v is None else v.dtype for v in given)
        typed = tuple(a.i for a in node.attribute if a.name in _TYPED)
        since = 0 if schema is None else schema.since_version
        key = (node.domain, node.op_type, since, dtypes, typed, len(node.output))
        if key not in self._known:
            refusal = self._load(node, given, opset)
            if refusal and not any(word in refusal for word in _ABSENT):
                return False  # of these sizes or attributes; of others it may have one
            self._known[key] = not refusal
        return self._known[key]

    def _load(self, node: onnx.NodeProto, given: Sequence[Val | None], opset: int) -> str:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = [f"out{i}" for i in range(len(node.output))]
        values = {v.name: v for v in given if v is not None}
        constants = [numpy_helper.from_array(v.content, v.name) for v in values.values() if v.content is not None]
        inputs = [helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in values.values() if v.content is None]
        outputs = [helper.make_empty_tensor_value_info(name) for name in copy.output]
        imports = [helper.make_opsetid(d, version_of(d, opset)) for d in {"", node.domain}]
        graph = helper.make_graph([copy], "one", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        try:
            answer: str = executor().call("tests.fuzz.kernels:refusal", model.SerializeToString(), timeout=_TIMEOUT)
        except ExecutorError as error:
            return error.what
        return answer


def refusal(model: bytes) -> str:
    """Runs in the child: why a model is not loaded, "" if it is."""
    from graphopt.runtime import session
    from graphopt.runtime.package import Package

    try:
        session.build(Package(model, (), (), ()), session.Options(threads=1))
    except ExecutorError as error:
        return error.what or "refused"
    return ""
