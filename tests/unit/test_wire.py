"""The wire scan takes payloads out and puts them back, and never reads past what is there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.ir.wire import Payload, WireError, placeholder, read_varint, splice, strip, varint

KEY = b"0123456789abcdef"


def array(count: int = 1000) -> np.ndarray:
    return np.arange(count, dtype=np.float32)


def tensor(name: str, count: int = 1000) -> onnx.TensorProto:
    return numpy_helper.from_array(array(count), name)


def model() -> onnx.ModelProto:
    """A large payload in every place that can hold one."""
    body = helper.make_graph([], "body", [], [], [tensor("inner")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("value")),
        helper.make_node("If", ["cond"], ["y"], then_branch=body, else_branch=body),
        helper.make_node("Many", ["c"], ["z"], domain="custom", list=[tensor("a"), tensor("small", 4)]),
    ]
    sparse = helper.make_sparse_tensor(tensor("values"), tensor("indices"), [4000])
    graph = helper.make_graph(nodes, "g", [], [], [tensor("w"), tensor("small", 4)], sparse_initializer=[sparse])
    function = helper.make_function("f", "F", [], ["v"], nodes[:1], [helper.make_opsetid("", 17)])
    return helper.make_model(graph, functions=[function])


def markers(data: bytes) -> list[tuple[int, int]]:
    """Offset and length of each payload that was taken out, in the order of the stripped message."""
    found: list[tuple[int, int]] = []
    rest = data
    while (at := rest.find(b"offset\x12")) >= 0:
        rest = rest[at + 7 :]
        offset = int(rest[1 : 1 + rest[0]])
        rest = rest[rest.find(b"length\x12") + 7 :]
        found.append((offset, int(rest[1 : 1 + rest[0]])))
    return found


def test_strip_takes_each_large_payload_and_nothing_else() -> None:
    data = model().SerializeToString()
    stripped, count = strip(data, "here")
    places = markers(stripped)
    assert count == len(places) == 8
    assert all(data[offset : offset + length] == array().tobytes() for offset, length in places)
    parsed = onnx.ModelProto.FromString(stripped)
    large, small = parsed.graph.initializer
    assert large.data_location == onnx.TensorProto.EXTERNAL
    assert not large.HasField("raw_data")
    assert {e.key: e.value for e in large.external_data}["location"] == "here"
    assert small.raw_data == array(4).tobytes()


def test_strip_leaves_a_model_without_large_payloads_as_it_is() -> None:
    data = helper.make_model(helper.make_graph([], "g", [], [], [tensor("w", 4)])).SerializeToString()
    assert strip(data, "here") == (data, 0)


def test_splice_puts_payloads_of_any_size_back() -> None:
    for count in (1, 31, 32, 5000, 600_000):  # around the sizes where a length takes another byte
        expected = model()
        skeleton = model()
        for proto in (expected, skeleton):
            proto.graph.initializer[0].dims[0] = count
            proto.graph.node[1].attribute[0].g.initializer[0].dims[0] = count
        payload = array(count).tobytes()
        for proto, raws in ((expected, (payload, payload)), (skeleton, (placeholder(KEY, 1), placeholder(KEY, 0)))):
            proto.graph.initializer[0].raw_data = raws[0]
            proto.graph.node[1].attribute[0].g.initializer[0].raw_data = raws[1]
        pieces, size = splice(skeleton.SerializeToString(), KEY, [len(payload)] * 2)
        whole = b"".join(payload if isinstance(piece, Payload) else piece for piece in pieces)
        assert [piece.index for piece in pieces if isinstance(piece, Payload)] == [0, 1]
        assert len(whole) == size
        assert whole == expected.SerializeToString()


def test_splice_without_payloads_is_the_skeleton() -> None:
    data = model().SerializeToString()
    assert splice(data, KEY, []) == ([data], len(data))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
def test_varints_read_back(value: int) -> None:
    assert read_varint(varint(value) + b"rest", 0) == (value, len(varint(value)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff" * 11, "a varint of more than 10 bytes at byte 0"),
        (b"\xff" * 9 + b"\x7f", "a varint of more than 64 bits at byte 0"),
        (b"\x3a\x05abc", "a length of 5 bytes where 3 are left at byte 0"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\x7fabc", "a length of 72057594037927935 bytes where 3 are left at byte 0"),
        (b"\x3b", "wire type 3, which no ONNX field has at byte 0"),
        (b"\x3f", "wire type 7, which no ONNX field has at byte 0"),
        (b"\x08", "the data ends in the middle of a field at byte 1"),
        (b"\x3d\x01", "a field that runs past the end of its message at byte 0"),
    ],
)
def test_broken_wire_format_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        strip(data, "here")
    assert str(caught.value) == reason


def test_nesting_is_limited() -> None:
    data = b"\x2a" + varint(2000) + bytes(2000)
    for _ in range(60):  # graph { node { attribute { graph { ... } } } }
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + varint(len(data)) + data
    with pytest.raises(WireError, match="messages nested deeper than 100 levels"):
        strip(b"\x3a" + varint(len(data)) + data, "here")


def test_every_truncation_is_an_error_or_a_shorter_message() -> None:
    data = model().SerializeToString()
    for end in range(0, len(data), 7):
        try:
            stripped, _ = strip(data[:end], "here")
        except WireError:
            continue
        assert len(stripped) <= end + 200
