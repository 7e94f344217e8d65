"""ONNX text: what is written reads back as the same model, by us and by onnx's own parser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

import graphopt
from graphopt.errors import ModelError
from graphopt.ir.text import from_text, tensor_from_text, tensor_to_text, to_text

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
FLOATS = ("float", "double", "float16", "bfloat16", "float8e4m3fn", "float8e5m2")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool", "int4", "uint4")


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every tensor stores its content in one way, and no text is there and empty."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    pending: list[Any] = [copy]
    while pending:
        message = pending.pop()
        if isinstance(message, TensorProto) and message.data_location != TensorProto.EXTERNAL:
            content = b"|".join(message.string_data)
            if message.data_type != TensorProto.STRING:
                content = numpy_helper.to_array(message).tobytes()
            for field in ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"):
                message.ClearField(field)
            message.raw_data = content
            message.name = message.name or "unnamed"
            continue
        for field, value in message.ListFields():
            if value == "" and field.name != "dim_param":
                message.ClearField(field.name)
            if field.message_type is not None:
                pending.extend([value] if hasattr(value, "ListFields") else value)
    return copy


def there_and_back(model: onnx.ModelProto, *, by_onnx: bool = True) -> str:
    """Asserts that the text reads back as the model; the text."""
    text = to_text(model, limit=None)
    assert plain(from_text(text)) == plain(model)
    if by_onnx:
        parser.parse_model(text)
    assert to_text(from_text(text), limit=None) == text
    return text


def model_of(
    *nodes: onnx.NodeProto, initializers: Any = (), inputs: Any = None, functions: Any = (), **fields: Any
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(list(nodes), "main", [x] if inputs is None else inputs, [y], list(initializers))
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10, **fields)


def relu(**kwargs: Any) -> onnx.NodeProto:
    return helper.make_node("Relu", ["x"], ["y"], **kwargs)


# -- constants ------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> TensorProto:
    name = draw(st.sampled_from([*FLOATS, *INTEGERS, "complex64", "string"]))
    dtype = TensorProto.DataType.Value(name.upper())
    dims = draw(st.lists(st.integers(0, 3), max_size=3))
    size = int(np.prod(dims, dtype=int))
    if name == "string":
        texts = st.text(st.characters(codec="utf-8", exclude_characters="|"), max_size=6)
        return helper.make_tensor("w", dtype, dims, [t.encode() for t in draw(st.lists(texts, min_size=size, max_size=size))])
    if name == "bool":
        raw = bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    else:
        bits = {"int4": 4, "uint4": 4, "complex64": 64, "double": 64}.get(name) or np.dtype(
            helper.tensor_dtype_to_np_dtype(dtype)
        ).itemsize * 8
        count = -(-size * bits // 8)
        raw = draw(st.binary(min_size=count, max_size=count))
        if name.endswith("int4") and size % 2:
            raw = raw[:-1] + bytes([raw[-1] & 15])
    return TensorProto(name="w", data_type=dtype, dims=dims, raw_data=raw)


@settings(max_examples=150, deadline=None)
@given(tensors())
def test_any_constant_survives_bit_for_bit(tensor: TensorProto) -> None:
    there_and_back(model_of(relu(), initializers=[tensor]))


@settings(max_examples=60, deadline=None)
@given(tensors())
def test_so_does_the_constant_in_an_attribute(tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    there_and_back(model_of(node, relu()))


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([1, -0.5, 1e-5], np.float32), "float[3] w = {1, -0.5, 1e-05}"),
        (np.array([np.inf, -np.inf, np.nan, -0.0]), "double[4] w = {inf, -inf, nan, -0.0}"),
        (np.array(0.1, np.float32), "float w = {0.1}"),
        (np.array(2**64 - 1, np.uint64), "uint64 w = {18446744073709551615}"),
        (np.zeros((0, 3), np.int64), "int64[0,3] w = {}"),
        (np.array([True, False]), "bool[2] w = {1, 0}"),
        (np.array([0.5, 2], np.float16), "float16[2] w = {14336, 16384}>  # 0.5, 2"),
    ],
)
def test_how_constants_are_written(array: np.ndarray, text: str) -> None:
    assert text in there_and_back(model_of(relu(), initializers=[numpy_helper.from_array(array, "w")]))


def test_half_precision_may_be_written_as_numbers() -> None:
    body = "g (float16 x) => (float16 y) { c = Constant <value = float16[2] {0.5, -1.0}> () y = Neg (x) }"
    tensor = from_text(HEADER + body).graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.array([0.5, -1], np.float16))


def test_small_integers_may_be_written_one_by_one_or_packed() -> None:
    for written in ("{1, -2, 7}", "{225, 7}"):
        tensor = from_text(HEADER + f"g (float x) => (float y) <int4[3] w = {written}> {{ y = Neg (x) }}").graph
        assert numpy_helper.to_array(tensor.initializer[0]).astype(int).tolist() == [1, -2, 7]


def test_large_constants_are_left_out_unless_asked_for() -> None:
    model = model_of(relu(), initializers=[numpy_helper.from_array(np.ones((3, 100), np.float32), "w")])
    text = to_text(model)
    assert "<float[3,100] w = {...}>  # 300 numbers that are not shown" in text
    with pytest.raises(ModelError, match="the numbers of 'w' are left out of this text") as error:
        from_text(text, "net.onnxtxt")
    assert error.value.where == "net.onnxtxt:3"
    there_and_back(model)


def test_external_data_stays_where_it_is() -> None:
    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    text = there_and_back(model_of(helper.make_node("Constant", [], ["c"], value=tensor), relu(), initializers=[tensor]))
    assert 'float[2] w = ["location": "w.bin"]' in text


# -- names ----------------------------------------------------------------------------------------

NAMES = ["/block3/Mul", "a.b", "3", "float", "inf", "seq", "a b", 'say "hi"', "a\\b", "naïve", "x->y", "#1", "tab\there"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives_everywhere(name: str) -> None:
    first = helper.make_node("Neg", ["x"], [name], name=name)
    last = helper.make_node("Add", [name, "w" + name], ["y"], name=name + "2")
    model = model_of(first, last, initializers=[numpy_helper.from_array(np.float32(1), "w" + name)])
    model.graph.name = name
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    model.graph.value_info.append(helper.make_tensor_value_info(name, 1, None))
    there_and_back(model)


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_names_of_bodies_operators_and_domains_survive(name: str) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], name, [], [onnx.ValueInfoProto(name="b")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    odd = helper.make_node(name or "Op", ["x"], ["z"], domain=f"pkg.torch.2.{name}", overload=name)
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor(name, 9, [], [True]))
    there_and_back(model_of(constant, odd, node))


def test_exporters_names_stay_readable() -> None:
    model = model_of(helper.make_node("Relu", ["x"], ["y"], name="/block3/Relu"))
    assert '["/block3/Relu"] y = Relu (x)' in to_text(model)


# -- structure ------------------------------------------------------------------------------------


def test_inputs_that_are_left_out() -> None:
    node = helper.make_node("Resize", ["x", "", "s", ""], ["y", "", "z"])
    assert 'y, "", z = Resize (x, "", s, "")' in there_and_back(model_of(node))


def test_attributes_of_all_kinds() -> None:
    node = helper.make_node(
        "Odd", ["x"], ["y"], domain="local", i=-3, f=1.0, g=1e-7, inf=float("inf"), s="a \"b\" c", ints=[1, 2], fs=[1.0, 0.5],
        ss=["a", "b"], t=numpy_helper.from_array(np.int64([1, 2]), "t"), tp=helper.make_tensor_type_proto(1, ["N", None]),
    )  # fmt: skip
    node.attribute.extend([
        helper.make_attribute("none", [], attr_type=onnx.AttributeProto.INTS),
        helper.make_attribute("nothing", [], attr_type=onnx.AttributeProto.STRINGS),
        onnx.AttributeProto(name="raw", type=onnx.AttributeProto.STRING, s=b"\xff\x00"),
        helper.make_attribute("ts", [numpy_helper.from_array(np.float32([1]), "one")] * 2),
        helper.make_attribute("gs", [helper.make_graph([], "empty", [], [])]),
    ])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.float32([5])), numpy_helper.from_array(np.int64([1])), [3]
    )
    node.attribute.append(helper.make_attribute("sparse", sparse))
    text = there_and_back(model_of(node))
    assert 'f = 1.0, fs = [1.0, 0.5], g = 1e-07, i = -3, inf = inf, ints = [1, 2], s = "a \\"b\\" c"' in text
    assert "none: ints = []" in text


def test_bodies_and_what_they_read_from_outside() -> None:
    text = """
        net (float[N,3] x, bool c) => (float[N,3] y)
        {
           y = If (c) <
              then_branch = then () => (float[N,3] a) <float one = {1}> { a = Add (x, one) },
              else_branch = other () => (float[N,3] b) { b = If (c) <then_branch = t () => (float[N,3] d) { d = Neg (x) },
                 else_branch = e () => (float[N,3] d) { d = Abs (x) }> }
           >
        }"""
    model = parser.parse_model(HEADER + text)
    assert plain(from_text(HEADER + text)) == plain(model)
    there_and_back(model)


def test_functions_with_parameters_types_and_documentation() -> None:
    text = HEADER.replace("[", '["local" : 1, ') + """
        net (float[N,3] x) => (float[N,3] y) { y = local.leak <slope = 0.5> (x) }
        <domain: "local", opset_import: ["" : 21], doc_string: "leaks">
        leak <must, slope: float = 0.25> (float[N,3] a) => (b) <float[N,3] c> {
           c = LeakyRelu <alpha: float = @slope> (a)
           b = Identity (c)
        }"""
    model = from_text(text)
    assert plain(model) == plain(parser.parse_model(text))
    model.functions[0].metadata_props.add(key="origin", value="torch")
    model.functions[0].overload = "v 2"
    there_and_back(model)


def test_types_that_are_no_tensors() -> None:
    types = "seq(float[N]) a, optional(seq(int64)) b, map(string, float[]) c, sparse_tensor(float[3]) d, float[] e, float f, g"
    text = HEADER + f"net ({types}) => (float[?,2,\"a+b\"] y) {{ y = local.Mix (a, b, c, d, e, f, g) }}"
    assert plain(from_text(text)) == plain(parser.parse_model(text))
    model = from_text(text)
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[4].type.tensor_type.shape.dim.add(denotation="BATCH", dim_value=-1)
    model.graph.input.add(name="odd").type.opaque_type.name = "thing"
    model.graph.input.add(name="untyped").type.tensor_type.shape.SetInParent()
    there_and_back(model)


def test_metadata_and_documentation_stand_behind_the_model() -> None:
    model = model_of(relu(name="r", doc_string="two\nlines"), doc_string="a \"model\"\n", producer_name="me", model_version=3)
    model.graph.node[0].metadata_props.add(key="graphopt.rule", value="fuse.x")
    model.graph.doc_string = "graph"
    model.graph.input[0].doc_string = "input"
    model.metadata_props.add(key="license", value="none\nat all")
    annotation = model.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    text = there_and_back(model)
    head, _, behind = text.partition("}\n")
    assert "#:" not in head
    assert '#: graph.node["y"].metadata_props = {"graphopt.rule": "fuse.x"}\n' in behind
    bare = to_text(model, metadata=False, names=False, types=False)
    assert bare.count("#:") == bare.count("quantization_annotation") == 1 and "[r]" not in bare and "fuse.x" not in bare


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "bilstm"])
def test_exported_networks(name: str) -> None:
    path = Path(__file__).parents[2] / "fixtures" / "models" / f"{name}.onnx"
    text = there_and_back(onnx.load(path))
    loaded = to_text(graphopt.load(path), limit=None, types=False, metadata=False)
    assert loaded == to_text(from_text(text), limit=None, types=False, metadata=False)


# -- what cannot be read --------------------------------------------------------------------------

BODY = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(float[2] x)", "(float[2 x)", r"t:2: expected '\]', found 'x'"),
        ("float[2] x", "flaot[2] x", r"t:2: expected '\)', found '\['"),
        ("{1, 2}", "{1}", r"t:2: 'w' of shape \[2\] takes 2 numbers, not 1"),
        ("{1, 2}", "{1, a}", "t:2: expected a number, found 'a'"),
        ("{1, 2}", '{1, "a"}', "t:2: 'a' is no number"),
        ("{1, 2}", "{1, 1e40}", "t:2: 1e40 is too large for its type"),
        ("float[2] w = {1, 2}", "int8[2] w = {1, 300}", "t:2: 300 is not between -128 and 127"),
        ("float[2] w = {1, 2}", "int8[2] w = {1, 0.5}", "t:2: 0.5 is no integer"),
        ("float[2] w = {1, 2}", "string[1] w = {1}", "t:2: 1 is no string\n  strings stand in double quotes"),
        ("float[2] w = {1, 2}", "float16[2] w = {1, 0.5}", "t:2: 1 is a bit pattern, beside numbers that are none\n  write 1.0"),
        ("float[2] w", "float[N] w", "the shape of the constant 'w' is not made of numbers"),
        ("float[2] w", "float[] w", "the constant 'w' has no shape\n  write"),
        ("Add (", "Add <a = [1, 2.0]> (", "a list holds values of one type\n  write 1.0"),
        ("Add (", "Add <a = []> (", "an empty list does not tell its type\n  write a: ints"),
        ("Add (", "Add <a: int = 1.5> (", "a is no int"),
        ("Add (", "Add <a: bool = 1> (", "there is no attribute type 'bool'"),
        ("Add (", "Add <a = 99999999999999999999> (", "is not between"),
        ("Add (", "Add <a = > (", "expected a value, found '>'"),
        ("(x, w)", "(x, w", "expected"),
        ("y = Add", "y = ", r"expected an operator, found '\('"),
        ("=> (float[2] y)", '=> (float[2] "y)', "a string does not end"),
        ("y = Add", "y = $", r"t:2: '\$' means nothing here"),
        ("(x, w) }", "(x, w)", "found the end"),
        ("g (", "<producer: 1> g (", "there is no field 'producer'|expected the name of a graph"),
    ],
)
def test_errors_name_the_line(old: str, new: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_text(HEADER + BODY.replace(old, new), "t")


def test_deep_nesting_is_refused_and_not_fatal() -> None:
    inner = "e () => (float y) { y = Neg (x) }"
    for _ in range(100):
        inner = f"e () => (float y) {{ y = If (c) <then_branch = {inner}> }}"
    with pytest.raises(ModelError, match="graphs are nested more than 60 deep"):
        from_text(HEADER + inner)
    with pytest.raises(ModelError):
        from_text("<" * 100_000)


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("#: nonsense", "expected `#: field = value`"),
        ('#: graph.node["z"].doc_string = "a"', "there is no node 'z'"),
        ("#: graph.nodes = []", "there is no field 'nodes'"),
        ("#: graph.node[7].name = \"a\"", "node has only 1 entries"),
        ("#: graph.name[0] = 1", "name is no list"),
        ("#: graph.name = {", "the value is no JSON"),
        ("#: graph.name = 3", "name does not take this value"),
        ('#: graph.input = [{"proto": "!"}]', "the value is no message"),
        ("#: graph.input = 3", "input does not take this value"),
    ],
)
def test_notes_that_lead_nowhere(note: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"t:3: {re.escape(message)}"):
        from_text(f"{HEADER}{BODY}\n{note}", "t")


def test_single_tensors() -> None:
    name, array = tensor_from_text("float16[2, 1] x = {0.5, 1.0}")
    assert name == "x" and array.dtype == np.float16 and array.tolist() == [[0.5], [1.0]]
    assert tensor_to_text("/x", np.int64([1, 2])) == 'int64[2] "/x" = {1, 2}'
    assert tensor_from_text(tensor_to_text("s", np.array(["a", "b"], object)))[1].tolist() == ["a", "b"]
    with pytest.raises(ModelError, match="expected nothing more"):
        tensor_from_text("float x = {1} float y = {2}")
