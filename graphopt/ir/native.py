"""Between our facts and onnx's shape inference in C++: types in and out, one node or a whole model at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.helper
import onnx.shape_inference
import onnx_ir as oir

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.schemas import Inconsistent

_INT64_MAX = 2**63 - 1
# What exporters write for "some size", in several places of one model that have nothing to do with each other.
_NAMELESS = frozenset({
    "?", "*", "-1", "_", "any", "dyn", "dynamic", "nan", "none", "null", "undefined", "unk", "unknown",
})


def is_nameless(name: str) -> bool:
    """Whether an exporter writes this for a size that has no name."""
    return name.lower() in _NAMELESS



class Fact(NamedTuple):
    """What is known of a value's type. `proto` is kept for what is no tensor (sequences, optionals, maps)."""

    dtype: oir.DataType | None = None
    shape: Shape | None = None
    proto: onnx.TypeProto | None = None


class Translator:
    """Writes symbolic sizes as names that C++ passes through unharmed, and reads them back.

    Any other name that comes back was invented during one run of the inference, so it means the same only
    within that run: each run has its own `names`.
    """

    def __init__(self) -> None:
        self._names: dict[Dim, str] = {}
        self._dims: dict[str, Dim] = {}
        self._types: dict[tuple[oir.DataType, Shape | None], onnx.TypeProto] = {}
        self._count = 0

    def fresh(self, *, size: bool = True) -> Dim:
        """A symbol equal to nothing else."""
        self._count += 1
        return Dim.unknown(f"?{self._count}" if size else f"?v{self._count}", size=size)

    def name(self, dim: Dim) -> str:
        name = self._names.get(dim)
        if name is None:
            name = self._names[dim] = f"~{len(self._names)}"
            self._dims[name] = dim
        return name

    def to_proto(self, fact: Fact) -> onnx.TypeProto:
        """The type for C++; empty where the dtype is not known."""
        if fact.proto is not None or fact.dtype is None:
            return fact.proto or onnx.TypeProto()
        key = (fact.dtype, fact.shape)
        proto = self._types.get(key)
        if proto is None:
            proto = self._types[key] = onnx.TypeProto()
            proto.tensor_type.elem_type = int(fact.dtype)
            if fact.shape is not None:
                self.write_shape(proto.tensor_type.shape, fact.shape)
        return proto

    def write_shape(self, proto: onnx.TensorShapeProto, shape: Shape) -> None:
        proto.Clear()
        for size in shape:
            dim = proto.dim.add()
            if isinstance(size, Dim):
                dim.dim_param = self.name(size)
            elif size is not None and size <= _INT64_MAX:
                dim.dim_value = size

    def from_proto(self, proto: onnx.TypeProto, names: dict[str, Dim]) -> Fact:
        """Read a type; `names` maps what this run of the inference invented, and grows."""
        if not proto.HasField("tensor_type"):
            return Fact(proto=proto) if proto.WhichOneof("value") else Fact()
        tensor = proto.tensor_type
        dtype = oir.DataType(tensor.elem_type) if tensor.elem_type else None
        if not tensor.HasField("shape"):
            return Fact(dtype)
        sizes: list[int | Dim | None] = []
        for dim in tensor.shape.dim:
            if dim.HasField("dim_value"):
                sizes.append(dim.dim_value if dim.dim_value >= 0 else None)
            elif dim.dim_param:
                name = dim.dim_param
                known = self._dims.get(name) or names.get(name)
                if known is None:
                    known = names[name] = self.fresh()
                sizes.append(known)
            else:
                sizes.append(None)
        return Fact(dtype, tuple(sizes))

    def from_model(self, proto: onnx.TypeProto, axes: Sequence[Dim] | None = None) -> Fact:
        """Read a type that a model declares; `axes`: what to call its unnamed sizes."""
        if not proto.HasField("tensor_type"):
            return Fact(proto=proto) if proto.WhichOneof("value") else Fact()
        tensor = proto.tensor_type
        dtype = _dtype(tensor.elem_type)
        if not tensor.HasField("shape"):
            return Fact(dtype)
        sizes: list[int | Dim | None] = []
        for i, dim in enumerate(tensor.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                sizes.append(dim.dim_value)
            elif dim.dim_param and not is_nameless(dim.dim_param):
                sizes.append(Dim.symbol(dim.dim_param))
            else:
                sizes.append(axes[i] if axes else self.fresh())
        return Fact(dtype, tuple(sizes))


def common(facts: Sequence[Fact], translator: Translator) -> Fact:
    """What is true of all of them: sizes that differ become unknown."""
    if not facts:
        return Fact()
    first = facts[0]
    if any(fact.proto is not None for fact in facts):
        return first if all(fact.proto == first.proto for fact in facts) else Fact()
    dtype = first.dtype if all(fact.dtype == first.dtype for fact in facts) else None
    shapes = [fact.shape for fact in facts if fact.shape is not None]
    if len(shapes) < len(facts) or any(len(s) != len(shapes[0]) for s in shapes):
        return Fact(dtype)
    sizes = zip(*shapes, strict=True)
    return Fact(dtype, tuple(s[0] if s.count(s[0]) == len(s) else translator.fresh() for s in sizes))


def merged(fact: Fact, shape: Shape | None) -> Fact:
    """A type with whatever is known more of its shape. Raises `Inconsistent` where the two contradict."""
    if shape is None or fact.proto is not None:
        return fact
    if fact.shape is None:
        return fact._replace(shape=shape)
    if len(fact.shape) != len(shape):
        raise Inconsistent(f"the rank is both {len(fact.shape)} and {len(shape)}")
    return fact._replace(shape=tuple(_better(a, b) for a, b in zip(fact.shape, shape, strict=True)))


def _better(a: int | Dim | None, b: int | Dim | None) -> int | Dim | None:
    if isinstance(a, int):
        if isinstance(b, int) and a != b:
            raise Inconsistent(f"a size is both {a} and {b}")
        return a
    if isinstance(b, int) or a is None:
        return b
    return b if b is not None and a.is_anonymous else a


def _dtype(code: int) -> oir.DataType | None:
    try:
        return oir.DataType(code) if code else None
    except ValueError:
        return None


def infer_node(
    schema: onnx.defs.OpSchema,
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    data: Mapping[str, onnx.TensorProto],
    imports: Mapping[str, int],
) -> dict[str, onnx.TypeProto]:
    """Infer the outputs of one node. Raises `Inconsistent` if onnx refuses it."""
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()]
    try:
        return onnx.shape_inference.infer_node_outputs(schema, node, dict(types), dict(data), opset_imports=opsets)
    except Exception as error:  # the binding raises exceptions of several unrelated classes
        raise Inconsistent(f"{node.op_type} is refused: {_plain(error)}") from error


def _plain(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    if text.startswith("["):
        text = text.partition("] ")[2] or text
    return text.removeprefix("(op_type:").strip() or type(error).__name__


def infer_model(proto: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str | None]:
    """Infer a whole model, or say why that failed.

    Without data propagation: onnx follows shape tensors of any length, so that a chain of doubling Concats hangs it,
    and takes a Reshape to a size that may be 0 for one to that size.
    """
    try:
        return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=False), None
    except Exception as error:  # as above; an inconsistent model loses its facts, not the run
        return None, _plain(error)


def node_proto(node: oir.Node, input_names: Sequence[str], output_names: Sequence[str]) -> onnx.NodeProto:
    """A node with the given names; bodies are left out."""
    proto = onnx.NodeProto()
    proto.op_type = node.op_type
    proto.domain = node.domain
    proto.input.extend(input_names)
    proto.output.extend(output_names)
    for attr in node.attributes.values():
        proto.attribute.append(oir.serde.serialize_attribute(attr))
    return proto


def tensor_proto(name: str, array: np.ndarray[Any, Any]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
