"""ONNX text: a model as one reads it, and back.

    <ir_version: 10, opset_import: ["" : 18]>
    net (float[N,3] x) => (float[N,3] y)
       <float c = {0.5}>
    {
       y = Mul (x, c)
    }

The syntax is that of `onnx.parser`; names that are no identifiers, such as "/block3/Mul", stand in quotes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as oir
from google.protobuf.message import Message
from onnx import numpy_helper

from graphopt.ir import beyond
from graphopt.ir.dump import dump
from graphopt.ir.parse import parse_model, parse_tensor
from graphopt.ir.printer import Printer
from graphopt.ir.region import region
from graphopt.ir.tokens import Tokens

if TYPE_CHECKING:
    from graphopt.ir.model import Model

__all__ = ["from_text", "region", "tensor_from_text", "tensor_to_text", "to_text"]


def to_text(
    model: onnx.ModelProto | oir.Model | Model,
    *,
    limit: int | None = 64,
    names: bool = True,
    types: bool = True,
    metadata: bool = True,
) -> str:
    """The model as ONNX text, which `from_text` reads back as an equal model.

    That takes all its constants: of one with more than `limit` elements only dtype and shape are written, as
    `{...}`, which cannot be read; `limit=None` writes all of them. What the syntax has no words for stands behind
    the model, in comments that begin with `#:`.

    Left out if so asked: `names` of nodes, `types` of values inside, `metadata` and documentation.
    """
    proto = model if isinstance(model, onnx.ModelProto) else _proto(model, limit)
    if not (names and types and metadata):
        proto = _bared(proto, names, types, metadata)
    printer = Printer(limit)
    text = printer.model(proto)
    read = parse_model(Tokens(text, "the text"), gaps=printer.elided > 0)
    lines = beyond.differences(proto, read, printer.is_elided)
    return text + "".join(f"{line}\n" for line in lines)


def from_text(text: str, where: str = "the text", first_line: int = 1) -> onnx.ModelProto:
    """The model that `to_text` wrote, or somebody by hand.

    `where` and `first_line` are for errors. Raises `ModelError` with the line of what cannot be read.
    """
    tokens = Tokens(text, where, first_line)
    model = parse_model(tokens)
    for note in tokens.notes:
        try:
            beyond.apply(model, note.text)
        except ValueError as error:
            raise tokens.error(str(error), note) from None
    return model


def tensor_from_text(text: str, where: str = "the text", first_line: int = 1) -> tuple[str, np.ndarray[Any, Any]]:
    """Name and content of a tensor such as `float[2] x = {1, 2}`. Raises `ModelError` if it cannot be read."""
    tensor = parse_tensor(Tokens(text, where, first_line))
    array = oir.serde.TensorProtoTensor(tensor).numpy()
    if tensor.data_type == onnx.TensorProto.STRING:
        array = np.array([text.decode() for text in tensor.string_data], object).reshape(array.shape)
    return tensor.name, array


def tensor_to_text(name: str, array: np.ndarray[Any, Any]) -> str:
    """A tensor as `tensor_from_text` reads it, in one line."""
    tensor = numpy_helper.from_array(array, name)
    return " ".join(Printer(None).initializer(tensor)[0].split("\n"))


def _proto(model: oir.Model | Model, limit: int | None) -> onnx.ModelProto:
    """With those weights only that are written out: the others may be large, and stay in their file."""

    def place(header: onnx.TensorProto, tensor: oir.TensorProtocol, _: bool) -> None:
        if limit is None or tensor.size <= limit:
            header.raw_data = tensor.tobytes()

    return dump(model if isinstance(model, oir.Model) else model.ir, place)


def _bared(model: onnx.ModelProto, names: bool, types: bool, metadata: bool) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    pending: list[Any] = [copy]
    while pending:
        message = pending.pop()
        if isinstance(message, onnx.NodeProto) and not names:
            message.name = ""
        if isinstance(message, onnx.GraphProto | onnx.FunctionProto) and not types:
            del message.value_info[:]
        for field, value in message.ListFields():
            if not metadata and field.name in ("metadata_props", "doc_string"):
                message.ClearField(field.name)
            elif field.message_type is not None and not isinstance(message, onnx.TensorProto):
                pending.extend([value] if isinstance(value, Message) else value)
    return copy
