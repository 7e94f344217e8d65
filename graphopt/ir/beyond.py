"""What a model says and ONNX text has no words for, as comments that `from_text` reads.

    #: graph.node["y"].metadata_props = {"graphopt.rule": "fuse.gelu_erf"}

Each is an assignment to a field of the proto: metadata, documentation, names that are no identifiers where the
syntax wants one, and what onnx's parser drops. Nodes are found by their first output, all else by its name, or by
its place. Which ones are needed is found by reading the text back and looking for what differs.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as oir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

MARK = "#: "

_STEP = re.compile(r"\.?([a-z_0-9]+)(?:\[(\"(?:[^\"\\]|\\.)*\"|\d+)\])?")
_LINE = re.compile(r"#:\s*(?P<path>(?:[a-z_0-9.]|\[(?:\"(?:[^\"\\]|\\.)*\"|\d+)\])+)\s*=\s*(?P<value>.*)\Z", re.DOTALL)
_ENTRY = onnx.StringStringEntryProto.DESCRIPTOR


def differences(original: Message, read: Message, skip: Callable[[onnx.TensorProto], bool]) -> Iterator[str]:
    """Lines that turn `read` into `original`. `skip`: tensors of which the content does not count."""
    return (MARK + line for line in _message(original, read, "", skip))


def _message(a: Message, b: Message, path: str, skip: Callable[[onnx.TensorProto], bool]) -> Iterator[str]:
    if isinstance(a, onnx.TensorProto) and isinstance(b, onnx.TensorProto):
        if not skip(a) and not _same_content(a, b):
            yield f"{path} = {_coded(a)}"
            return
        names = ("doc_string", "metadata_props", "segment", "name")
    else:
        # What an item is found by comes last: until then it is called as in the text.
        key = "output" if isinstance(a, onnx.NodeProto) else "name"
        names = tuple(sorted((f.name for f in a.DESCRIPTOR.fields), key=lambda name: name == key))
    dot = f"{path}." if path else ""
    for name in names:
        field = a.DESCRIPTOR.fields_by_name[name]
        mine, theirs = getattr(a, name), getattr(b, name)
        if _is_list(field):
            yield from _repeated(field, mine, theirs, f"{dot}{name}", skip)
        elif field.message_type is None:
            if mine != theirs and not (mine != mine and theirs != theirs):
                yield f"{dot}{name} = {_json(mine)}"
        elif a.HasField(name) != b.HasField(name):
            yield f"{dot}{name} = {_coded(mine) if a.HasField(name) else 'null'}"
        elif a.HasField(name):
            yield from _message(mine, theirs, f"{dot}{name}", skip)


def _repeated(
    field: FieldDescriptor, mine: Any, theirs: Any, path: str, skip: Callable[[onnx.TensorProto], bool]
) -> Iterator[str]:
    if field.message_type is None:
        if list(mine) != list(theirs):
            yield f"{path} = {_json(list(mine))}"
    elif field.message_type is _ENTRY or field.message_type.full_name == _ENTRY.full_name:
        entries = [(e.key, e.value) for e in mine]
        if entries != [(e.key, e.value) for e in theirs]:
            plain = dict(entries)
            yield f"{path} = {_json(plain if len(plain) == len(entries) else [list(e) for e in entries])}"
    elif len(mine) != len(theirs):
        yield f"{path} = [{', '.join(map(_coded, mine))}]"
    else:
        counts = Counter(map(_key, theirs))
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            key = _key(b)
            place = json.dumps(key, ensure_ascii=False) if key and counts[key] == 1 else i
            yield from _message(a, b, f"{path}[{place}]", skip)


def _is_list(field: FieldDescriptor) -> bool:
    known: Any = field  # `label` is going, `is_repeated` is not there yet in older versions
    return bool(known.is_repeated) if hasattr(field, "is_repeated") else bool(known.label == known.LABEL_REPEATED)


def _key(item: Any) -> str:
    """By what an item of a list is known in the text: a node by its first output, others by their name."""
    if isinstance(item, onnx.NodeProto):
        return next(iter(item.output), "")
    return str(getattr(item, "name", ""))


def _same_content(a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
    if a.data_type != b.data_type or list(a.dims) != list(b.dims) or a.data_location != b.data_location:
        return False
    if a.data_location == onnx.TensorProto.EXTERNAL:
        return list(a.external_data) == list(b.external_data)
    if a.data_type == onnx.TensorProto.STRING:
        return list(a.string_data) == list(b.string_data)
    try:
        return bool(oir.serde.TensorProtoTensor(a).tobytes() == oir.serde.TensorProtoTensor(b).tobytes())
    except (ValueError, TypeError, NotImplementedError):
        return bool(a.SerializeToString() == b.SerializeToString())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_bytes)


def _bytes(value: bytes) -> Any:
    return {"base64": base64.b64encode(value).decode()}


def _coded(message: Message) -> str:
    return json.dumps({"proto": base64.b64encode(message.SerializeToString(deterministic=True)).decode()})


# -- reading ------------------------------------------------------------------------------------


def apply(model: Message, line: str) -> None:
    """Carry out one line. Raises `ValueError` with the reason if it cannot be read, or leads nowhere."""
    match = _LINE.match(line)
    if match is None:
        raise ValueError("expected `#: field = value`")
    try:
        value = json.loads(match["value"])
    except ValueError:
        raise ValueError("the value is no JSON") from None
    *steps, last = _STEP.findall(match["path"])
    target: Any = model
    for name, place in steps:
        target = _element(_field(target, name), name, place)
    name, place = last
    field = _field(target, name)
    if place:
        _assign(_element(field, name, place), value)
    else:
        _set(target, name, value)


def _field(target: Any, name: str) -> Any:
    if not isinstance(target, Message) or name not in target.DESCRIPTOR.fields_by_name:
        raise ValueError(f"there is no field {name!r}")
    return getattr(target, name)


def _element(field: Any, name: str, place: str) -> Any:
    if not place:
        return field
    if isinstance(field, Message | str | bytes) or not hasattr(field, "__len__"):
        raise ValueError(f"{name} is no list")
    if not place.startswith('"'):
        index = int(place)
        if index >= len(field):
            raise ValueError(f"{name} has only {len(field)} entries")
        return field[index]
    key = json.loads(place)
    found = [item for item in field if _key(item) == key]
    if len(found) != 1:
        raise ValueError(f"there {'is no' if not found else 'are several'} {name} {key!r}")
    return found[0]


def _assign(target: Any, value: Any) -> None:
    """Let a message be the one that is written there."""
    if not isinstance(target, Message):
        raise ValueError("only a message can be replaced")
    try:
        target.ParseFromString(base64.b64decode(value["proto"], validate=True))
    except (TypeError, KeyError, ValueError, DecodeError):
        raise ValueError("the value is no message") from None


def _set(target: Message, name: str, value: Any) -> None:
    field = target.DESCRIPTOR.fields_by_name[name]
    if value is None:
        target.ClearField(name)
    elif field.message_type is not None and not _is_list(field):
        _assign(getattr(target, name), value)
        getattr(target, name).SetInParent()
    elif field.message_type is not None:
        _set_messages(target, name, value)
    else:
        try:
            if _is_list(field):
                target.ClearField(name)
                getattr(target, name).extend(_plain(v) for v in value)
            else:
                setattr(target, name, _plain(value))
        except (TypeError, ValueError):
            raise ValueError(f"{name} does not take this value") from None


def _set_messages(target: Message, name: str, value: Any) -> None:
    target.ClearField(name)
    items = getattr(target, name)
    if isinstance(value, dict):
        value = list(value.items())
    if not isinstance(value, list):
        raise ValueError(f"{name} does not take this value")
    for item in value:
        if isinstance(item, Sequence) and len(item) == 2 and all(isinstance(part, str) for part in item):
            items.add(key=item[0], value=item[1])
        else:
            _assign(items.add(), item)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"], validate=True)
    return value
