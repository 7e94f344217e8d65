"""Models of every kind, in and out, and nobody's object changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnx_ir as oir
import pytest

from graphopt.errors import ModelError, UsageError
from graphopt.interop import convert
from graphopt.interop.clone import clone
from graphopt.interop.convert import from_ir, to_ir
from graphopt.interop.kinds import Kind, kind_of, parse_kind

TEXT = """
<ir_version: 10, opset_import: ["": 18, "local": 1], metadata_props: ["licence": "free"]>
main (bool flag, float[batch, 400] x, float[400] scale) => (float[batch, 400] y)
{
  scaled = Mul(x, scale)
  moved = local.lift <by: int = 2> (scaled)
  y = If (flag) <
    then_branch = yes () => (float[batch, 400] a) { a = Add(moved, shift) },
    else_branch = no () => (float[batch, 400] b) { b = Sub(moved, shift) }
  >
}
<domain: "local", opset_import: ["": 18]>
lift <by> (v) => (w) { k = Constant <value_int: int = @by> ()  f = CastLike(k, v)  w = Add(v, f) }
"""


def proto() -> onnx.ModelProto:
    """An overridable initializer, bodies that capture, a function, metadata, a symbolic axis."""
    model = onnx.parser.parse_model(TEXT)
    for name, array in (("scale", np.full(400, 3)), ("shift", np.arange(400) / 8)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "origin", "exporter"
    annotation = model.graph.quantization_annotation.add(tensor_name="scaled")
    pair = annotation.quant_parameter_tensor_names.add()
    pair.key, pair.value = "SCALE_TENSOR", "scale"
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    x = np.linspace(-2, 2, 800, dtype=np.float32).reshape(2, 400)
    feeds = {"flag": np.array(True), "x": x}
    return onnx.reference.ReferenceEvaluator(model).run(None, {**feeds, "scale": np.full(400, 3, np.float32)})


def same(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(run(a), run(b), strict=True))


def damage(model: oir.Model) -> None:
    """Change everything in a model that has a name, a type, a shape or a list."""
    model.metadata_props["licence"] = "none"
    model.opset_imports["other"] = 7
    model.graph.name = "damaged"
    pending = [model.graph, *(f.graph for f in model.functions.values())]
    while pending:
        graph = pending.pop()
        for value in [*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)]:
            value.dtype = oir.DataType.DOUBLE
            value.shape = oir.Shape([9])
            value.name = f"damaged_{value.name}"
            value.metadata_props["damaged"] = "yes"
            value.meta.clear()
        for node in graph:
            node.metadata_props["origin"] = "damage"
            for attribute in node.attributes.values():
                if attribute.type == oir.AttributeType.GRAPH:
                    pending.append(attribute.as_graph())
            node.attributes.clear()
        graph.inputs.clear()


# kinds


def test_each_kind_is_told_apart(tmp_path: Path) -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    model = proto()
    assert kind_of("model.onnx") is Kind.PATH
    assert kind_of(tmp_path) is Kind.PATH
    assert kind_of(b"") is Kind.BYTES
    assert kind_of(bytearray()) is Kind.BYTES
    assert kind_of(model) is Kind.PROTO
    assert kind_of(oir.from_proto(model)) is Kind.IR
    assert kind_of(gs.import_onnx(model)) is Kind.GRAPHSURGEON


def test_what_is_no_model_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(UsageError) as error:
        kind_of(3)
    assert error.value.what == "a builtins.int is not a model"
    assert error.value.hint == (
        "give a path, bytes, graphopt.Model, onnx.ModelProto, onnx_ir.Model, torch.onnx.ONNXProgram "
        "or onnx_graphsurgeon.Graph"
    )
    with pytest.raises(UsageError, match=r"a onnx_ir\.Graph is not a model"):
        kind_of(oir.from_proto(proto()).graph)


def test_an_unknown_kind_names_the_nearest() -> None:
    assert parse_kind("proto") is Kind.PROTO
    with pytest.raises(UsageError) as error:
        parse_kind("graphsurgon")
    assert error.value.what == "unknown kind of model 'graphsurgon'"
    assert "did you mean 'graphsurgeon'?" in (error.value.hint or "")


def test_a_module_of_torch_is_told_to_be_exported() -> None:
    module = type("Net", (type("Module", (), {"__module__": "torch.nn.modules.module"}),), {})
    with pytest.raises(UsageError) as error:
        kind_of(module())
    assert error.value.hint == "export it first: torch.onnx.export(module, args, dynamo=True)"


def test_telling_kinds_apart_imports_no_library() -> None:
    code = (
        "import sys; from graphopt.interop.kinds import kind_of; kind_of('a.onnx'); "
        "print([m for m in ('onnx', 'onnx_ir', 'numpy', 'torch', 'onnx_graphsurgeon') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# round trips


@pytest.mark.parametrize("kind", [Kind.BYTES, Kind.PROTO, Kind.IR, Kind.GRAPHSURGEON])
def test_a_round_trip_keeps_what_the_model_computes(kind: Kind) -> None:
    original = proto()
    model, _ = to_ir(original)
    there = from_ir(model, kind)
    assert kind_of(there) is kind
    back = from_ir(to_ir(there)[0], Kind.PROTO)
    assert same(original, back)
    assert [v.name for v in back.graph.output] == ["y"]


@pytest.mark.parametrize("kind", [Kind.BYTES, Kind.PROTO, Kind.IR])
def test_a_round_trip_keeps_interface_and_metadata(kind: Kind) -> None:
    back = from_ir(to_ir(from_ir(to_ir(proto())[0], kind))[0], Kind.PROTO)
    assert [v.name for v in back.graph.input] == ["flag", "x", "scale"]
    assert back.graph.input[1].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {t.name for t in back.graph.initializer} == {"scale", "shift"}
    assert {p.key: p.value for p in back.metadata_props} == {"licence": "free"}
    assert {p.key: p.value for p in back.graph.node[0].metadata_props} == {"origin": "exporter"}
    assert back.graph.quantization_annotation[0].tensor_name == "scaled"
    assert [f.name for f in back.functions] == ["lift"]
    onnx.checker.check_model(back, full_check=True)


def test_a_path_becomes_a_model_with_its_weights_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(proto().SerializeToString())
    model, source = to_ir(path)
    assert source is not None
    assert source.path == path
    assert same(proto(), from_ir(model, Kind.PROTO))
    assert kind_of(from_ir(model, Kind.PATH, source=source)) is Kind.MODEL


def test_external_weights_of_an_ir_model_travel_with_the_proto(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(proto(), path, save_as_external_data=True, location="w.bin", size_threshold=100)
    external = oir.load(path)
    assert isinstance(external.graph.initializers["shift"].const_value, oir.ExternalTensor)
    back = from_ir(to_ir(external)[0], Kind.PROTO)
    assert all(not t.external_data for t in back.graph.initializer)
    assert same(proto(), back)


def test_a_proto_beyond_what_protobuf_writes_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = proto()
    assert onnx.ModelProto.FromString(b"".join(convert._pieces(whole))) == whole
    monkeypatch.setattr(convert, "_fits", lambda _: False)
    model, _ = to_ir(whole)
    assert same(whole, from_ir(model, Kind.PROTO))


def test_a_graphopt_model_is_copied() -> None:
    first = from_ir(to_ir(proto())[0], Kind.MODEL)
    model, _ = to_ir(first)
    damage(model)
    assert same(proto(), from_ir(first.ir, Kind.PROTO))


def test_an_onnx_program_needs_one_to_be_made_from() -> None:
    model, _ = to_ir(proto())
    with pytest.raises(UsageError) as error:
        from_ir(model, Kind.TORCH, like=proto())
    assert error.value.what == "an ONNXProgram can only be made from an ONNXProgram"


def test_an_onnx_program_keeps_its_exported_program() -> None:
    class ONNXProgram:
        def __init__(self, model: oir.Model, exported_program: object) -> None:
            self.model = model
            self.exported_program = exported_program

    ONNXProgram.__module__ = "torch.onnx"
    program = ONNXProgram(oir.from_proto(proto()), "the exported program")
    model, _ = to_ir(program)
    assert model is not program.model
    made = from_ir(model, Kind.TORCH, like=program)
    assert type(made) is ONNXProgram
    assert made is not program
    assert made.model is model
    assert made.exported_program == "the exported program"


@pytest.mark.slow
def test_a_real_onnx_program() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(64, 32)

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.gelu(self.linear(x))

    x = torch.randn(3, 64)
    program = torch.onnx.export(Net().eval(), (x,), dynamo=True, verbose=False)
    assert kind_of(program) is Kind.TORCH
    before = program.model_proto.SerializeToString(deterministic=True)
    model, _ = to_ir(program)
    made = from_ir(clone(model), Kind.TORCH, like=program)
    assert torch.equal(made(x)[0], program(x)[0])
    damage(model)
    assert program.model_proto.SerializeToString(deterministic=True) == before


# graphsurgeon


def test_a_graphsurgeon_graph_is_not_changed() -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    graph = gs.import_onnx(proto())
    graph.nodes[0].domain = "com.example"  # not imported: the exporter would add it to the graph's own list
    before = len(graph.import_domains)
    model, _ = to_ir(graph)
    assert model.opset_imports["com.example"] == 1
    assert len(graph.import_domains) == before


def test_a_graphsurgeon_graph_out_of_order_is_sorted() -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    graph = gs.import_onnx(proto())
    graph.nodes.reverse()
    model, _ = to_ir(graph)
    assert same(proto(), from_ir(model, Kind.PROTO))
    assert [node.op for node in graph.nodes] == ["If", "lift", "Mul"]


def test_a_graphsurgeon_graph_without_types_says_so() -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    graph = gs.import_onnx(proto())
    graph.outputs[0].dtype = None
    with pytest.raises(ModelError, match="onnx-graphsurgeon cannot export this graph: Graph input and output"):
        to_ir(graph)


def test_what_graphsurgeon_would_drop_is_refused() -> None:
    pytest.importorskip("onnx_graphsurgeon")
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (y) { y = Optional(x) }')
    element = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("type", element))
    model.graph.output[0].type.CopyFrom(onnx.helper.make_optional_type_proto(element))
    ir, _ = to_ir(model)
    with pytest.raises(UsageError) as error:
        from_ir(ir, Kind.GRAPHSURGEON)
    assert error.value.what == "onnx-graphsurgeon cannot hold the attribute 'type' of type TYPE_PROTO"
    assert error.value.where == "node 'Optional'"


# clone


def test_a_clone_is_equal() -> None:
    model = oir.from_proto(proto())
    assert oir.to_proto(clone(model)).graph.node == oir.to_proto(model).graph.node
    assert oir.to_proto(clone(model)).functions == oir.to_proto(model).functions
    assert same(oir.to_proto(clone(model)), proto())


def test_no_change_of_a_clone_reaches_the_original() -> None:
    original = proto()
    before = original.SerializeToString(deterministic=True)
    model = oir.from_proto(original)
    written = oir.to_proto(model).SerializeToString(deterministic=True)
    damage(clone(model))
    assert oir.to_proto(model).SerializeToString(deterministic=True) == written
    assert original.SerializeToString(deterministic=True) == before


def test_a_clone_shares_the_bytes_of_the_weights() -> None:
    array = np.arange(6, dtype=np.float32)
    value = oir.Value(name="w", const_value=oir.Tensor(array, name="w"))
    graph = oir.Graph([], [value], nodes=[], initializers=[value], opset_imports={"": 18}, name="g")
    copied = clone(oir.Model(graph, ir_version=10)).graph.initializers["w"]
    assert np.shares_memory(copied.const_value.numpy(), array)  # type: ignore[union-attr]


def test_strings_and_captured_values_survive_a_clone() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 18]>
        g (bool c, float[2] x) => (float[2] y, string[2] s) <string[2] s = {"a", "b"}> {
          t = Relu(x)
          y = If(c) <then_branch = p () => (float[2] r) { r = Neg(t) },
                     else_branch = q () => (float[2] u) { u = Identity(t) }>
        }""")
    original = oir.from_proto(model)
    copied = clone(original)
    assert oir.to_proto(copied).graph.node == oir.to_proto(original).graph.node
    assert oir.to_proto(copied).graph.initializer[0].string_data == [b"a", b"b"]
    captured = copied.graph.node(1).attributes["then_branch"].as_graph().node(0).inputs[0]
    assert captured is copied.graph.node(0).outputs[0]


def test_an_ir_model_out_of_order_is_sorted_in_the_copy_only() -> None:
    model = oir.from_proto(proto())
    first = model.graph.node(0)
    model.graph.remove(first)
    model.graph.append(first)
    ordered, _ = to_ir(model)
    assert [node.op_type for node in ordered.graph] == ["Mul", "lift", "If"]
    assert [node.op_type for node in model.graph] == ["lift", "If", "Mul"]


def test_an_ir_model_with_a_cycle_or_a_dangling_value_is_refused() -> None:
    model = oir.from_proto(proto())
    model.graph.node(0).replace_input_with(0, model.graph.node(1).outputs[0])
    with pytest.raises(ModelError, match="the nodes of the graph 'main' form a cycle"):
        to_ir(model)
    model.graph.node(0).replace_input_with(0, oir.Value(name="lost"))
    with pytest.raises(ModelError, match="nothing produces the value 'lost'") as error:
        to_ir(model)
    assert error.value.where == "input of node 'Mul'"
