"""A model in the making: names, scopes, constants, and nodes whose types onnx infers one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import numpy as np
import onnx
import onnx.defs
from onnx import helper, numpy_helper
from onnx.shape_inference import InferenceError, infer_node_outputs

from graphopt.check.opsets import schema_at, version_of
from tests.fuzz.values import BOOL, F32, FLOATS, I32, I64, NUMBERS, U8, Array, Val, numbers, numpy_of

_LARGEST = 4000  # elements of a tensor
_SYMBOLS = "ZNMKLHWPQRSTUV"

Runs = Callable[[onnx.NodeProto, Sequence[Val | None], int], bool]
"""Whether ONNX Runtime has a kernel for a node with such inputs at an opset."""


class Reject(Exception):
    """This node cannot be made; something else is tried."""


class Builder:
    """One model. `rng` decides everything; `special`: with infinities, NaN and extreme integers."""

    def __init__(self, rng: Random, runs: Runs) -> None:
        self.rng = rng
        self.runs = runs
        self.opset = rng.choice((7, 8, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 18, 19, 20, 20, 21, 21, 22, 23, 23, 24))
        self.special = rng.random() < 0.4
        self.zero = rng.random() < 0.15
        self.float = rng.choice((F32,) * 7 + FLOATS[1:])
        self.dynamic = rng.choice((0.0, 0.0, 0.4, 1.0))
        self.named = rng.random() < 0.5
        self.imports = {"": self.opset}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.feeds: dict[str, Array] = {}
        self.fixed: set[str] = set()  # inputs whose numbers matter: divisors, indices
        self.overridable: set[str] = set()
        self.scopes: list[list[Val]] = [[]]
        self.nodes: list[list[onnx.NodeProto]] = [[]]
        self._count = 0

    def name(self, prefix: str = "v") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    @property
    def inside(self) -> bool:
        """Whether nodes go into the body of another node."""
        return len(self.scopes) > 1

    @contextmanager
    def body(self) -> Iterator[list[onnx.NodeProto]]:
        """Nodes made within go into the list that is given."""
        self.scopes.append([])
        self.nodes.append([])
        try:
            yield self.nodes[-1]
        finally:
            self.scopes.pop()
            self.nodes.pop()

    # -- values --------------------------------------------------------------------------------------

    def values(self) -> list[Val]:
        return [value for scope in self.scopes for value in scope]

    def add(self, value: Val) -> Val:
        self.scopes[-1].append(value)
        return value

    def pick(self, want: Callable[[Val], bool] = lambda v: True, least: int = 0, dtypes: Sequence[int] = ()) -> Val:
        """A value, mostly a recent one and no constant. Raises `Reject` if there is none."""
        found = [
            v for v in self.values() if v.rank >= least and (not dtypes or v.dtype in dtypes) and want(v)
        ]
        if not found:
            raise Reject
        varying = [v for v in found if not v.const]
        if varying and self.rng.random() < 0.9:
            found = varying
        return self.rng.choice(found[-4:] if self.rng.random() < 0.6 else found)

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        rank = self.rng.choice((0, 1, 1, 2, 2, 2, 3, 3, 4)) if rank is None else rank
        sizes = (1, 2, 3, 4, 1, 2, 2, 5, *([0] if self.zero else []))
        return tuple(self.rng.choice(sizes) for _ in range(rank))

    def any_dtype(self) -> int:
        return self.rng.choice((self.float,) * 8 + (F32, F32, I64, I64, I32, BOOL, BOOL, U8, self.rng.choice(NUMBERS)))

    def numbers(self, shape: Sequence[int], dtype: int) -> Array:
        return numbers(self.rng, shape, dtype, self.special)

    def input(self, shape: Sequence[int] | None = None, dtype: int | None = None, array: Array | None = None) -> Val:
        """A graph input, of which some sizes may be symbolic."""
        shape = self.shape() if shape is None else tuple(shape)
        dtype = self.any_dtype() if dtype is None else dtype
        name = self.name("in")
        self.feeds[name] = self.numbers(shape, dtype) if array is None else array
        dims = [_SYMBOLS[s] if s < len(_SYMBOLS) and self.rng.random() < self.dynamic else s for s in shape]
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        value = Val(name, dtype, tuple(shape))
        self.scopes[0].append(value)
        return value

    def const(self, array: Any, dtype: int | None = None, plain: bool = False) -> Val:
        """A constant: an initializer, that of a graph input at times, a Constant, or one that is there already."""
        content = np.asarray(array) if dtype is None else np.asarray(array).astype(numpy_of(dtype))
        rng = self.rng
        for value in self.values():
            if value.const and value.content is not None and rng.random() < 0.5 and _same(value.content, content):
                return value
        name = self.name("c")
        tensor = numpy_helper.from_array(content, name)
        value = Val(name, tensor.data_type, content.shape, content, True)
        chance = rng.random()
        if chance < 0.6 or self.opset < 9:
            self.initializers.append(tensor)
            if not plain and rng.random() < 0.05:
                self.inputs.append(helper.make_tensor_value_info(name, tensor.data_type, content.shape))
                self.overridable.add(name)
                value = Val(name, tensor.data_type, content.shape)
            self.scopes[0].append(value)
            return value
        written = _spelled(content) if self.opset >= 12 and rng.random() < 0.4 else {}
        self._append(helper.make_node("Constant", [], [name], **(written or {"value": tensor})))
        return self.add(value)

    def ints(self, *content: int) -> Val:
        return self.const(np.array(content, np.int64), plain=True)

    # -- nodes ---------------------------------------------------------------------------------------

    def node(
        self, op: str, inputs: Sequence[Val | None], *, outputs: int = 1, domain: str = "", content: Array | None = None, **attributes: Any,
    ) -> Val:
        return self.nodes_of(op, inputs, outputs=outputs, domain=domain, content=content, **attributes)[0]

    def nodes_of(
        self, op: str, inputs: Sequence[Val | None], *, outputs: int = 1, domain: str = "", content: Array | None = None, **attributes: Any,
    ) -> list[Val]:
        """A new node's outputs. Raises `Reject` if the operator does not take this, or no runtime has it.

        Attributes that are None are left out; `content`: what the first output holds, where that is known.
        """
        given = [None if v is None else v for v in inputs]
        while given and given[-1] is None:
            given.pop()
        version = version_of(domain, self.opset)
        schema = schema_at(domain, op, version)
        if schema is None or not schema.min_input <= len(given) <= schema.max_input:
            raise Reject
        attributes = {name: value for name, value in attributes.items() if value is not None}
        if not attributes.keys() <= schema.attributes.keys():
            raise Reject
        names = [self.name() for _ in range(outputs)]
        node = helper.make_node(op, ["" if v is None else v.name for v in given], names, domain=domain, **attributes)
        if not self.runs(node, given, self.opset):
            raise Reject
        types = self._infer(schema, node, given, domain, version)
        made = []
        for i, name in enumerate(names):
            tensor = types[name].tensor_type
            shape = _shape(tensor)
            if shape is not None and np.prod(shape, dtype=np.float64) > _LARGEST:
                raise Reject
            made.append(Val(name, tensor.elem_type, shape, content if i == 0 else None))
        self.imports[domain] = version
        self._append(node)
        self.scopes[-1].extend(made)
        return made

    def raw(self, node: onnx.NodeProto, values: Sequence[Val]) -> None:
        """A node whose outputs the caller knows."""
        self._append(node)
        self.scopes[-1].extend(values)

    def _append(self, node: onnx.NodeProto) -> None:
        if self.named:
            node.name = self.name("n")
        self.nodes[-1].append(node)

    def _infer(
        self, schema: onnx.defs.OpSchema, node: onnx.NodeProto, given: Sequence[Val | None], domain: str, version: int
    ) -> dict[str, onnx.TypeProto]:
        types = {v.name: helper.make_tensor_type_proto(v.dtype, v.shape) for v in given if v is not None}
        data = {v.name: numpy_helper.from_array(v.content, v.name) for v in given if v is not None and v.content is not None}
        imports = [helper.make_opsetid(d, v) for d, v in ({"": self.opset} | {domain: version}).items()]
        try:
            found = infer_node_outputs(schema, node, types, data, opset_imports=imports, ir_version=10)
        except (InferenceError, RuntimeError, onnx.checker.ValidationError):
            raise Reject from None
        if any(name not in found or not found[name].tensor_type.elem_type for name in node.output):
            raise Reject
        return dict(found)


def _shape(tensor: Any) -> tuple[int, ...] | None:
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _spelled(content: Array) -> dict[str, Any]:
    """Numbers as the attribute of a Constant that is no tensor, if there is one for them."""
    name = {np.dtype(np.int64): "value_int", np.dtype(np.float32): "value_float"}.get(content.dtype)
    if name is None or content.ndim > 1 or not content.size:
        return {}
    return {name: content.item()} if content.ndim == 0 else {f"{name}s": content.tolist()}


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.dtype != object and a.tobytes() == b.tobytes()
