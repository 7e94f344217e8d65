"""Multiply-accumulates, planned memory and counts, against numbers worked out by hand."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import onnx.parser
import pytest

import graphopt
from graphopt.report.measure import measure


def measured(text: str, opset: int = 17, functions: str = ""):
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}, "mine" : 1, "com.microsoft" : 1]>\n{text}\n{functions}'
    )
    return measure(graphopt.load(model.SerializeToString()))


@pytest.mark.parametrize(
    ("graph", "macs"),
    [
        ("g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { y = Conv (x, w) }", 4 * 36 * 27),
        ("g (float[1,4,8,8] x, float[4,1,3,3] w) => (float[1,4,6,6] y) { y = Conv <group = 4> (x, w) }", 4 * 36 * 9),
        (
            "g (float[1,4,8,8] x, float[4,3,2,2] w) => (float[1,3,16,16] y) "
            "{ y = ConvTranspose <strides = [2,2]> (x, w) }",
            4 * 64 * 12,
        ),
        ("g (float[5,7] a, float[7,2] b) => (float[5,2] y) { y = Gemm (a, b) }", 70),
        ("g (float[7,5] a, float[7,2] b) => (float[5,2] y) { y = Gemm <transA = 1> (a, b) }", 70),
        ("g (float[2,3,5,7] a, float[7,2] b) => (float[2,3,5,2] y) { y = MatMul (a, b) }", 6 * 70),
        ("g (float[7] a, float[7] b) => (float y) { y = MatMul (a, b) }", 7),
        (
            "g (float[9,2,5] x, float[2,12,5] w, float[2,12,3] r) => (float[9,2,2,3] y) "
            '{ y = LSTM <direction = "bidirectional", hidden_size = 3> (x, w, r) }',
            9 * 2 * 2 * 12 * (5 + 3),
        ),
        (
            "g (float[9,2,5] x, float[1,9,5] w, float[1,9,3] r) => (float[9,1,2,3] y) "
            "{ y = GRU <hidden_size = 3> (x, w, r) }",
            9 * 2 * 9 * (5 + 3),
        ),
        (
            'g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y) { y = Einsum <equation = "bij,bjk->bik"> (a, b) }',
            120,
        ),
        (
            'g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y) { y = Einsum <equation = "...ij,...jk"> (a, b) }',
            120,
        ),
        ('g (float[3,4] a) => (float[4,3] y) { y = Einsum <equation = "ij->ji"> (a) }', 0),
        ("g (uint8[5,7] a, int8[7,2] b) => (int32[5,2] y) { y = MatMulInteger (a, b) }", 70),
        ("g (float[5] a, float[5] b) => (float[5] y) { y = Add (a, b) }", 0),
    ],
)
def test_macs(graph, macs):
    assert measured(graph).macs == macs


def test_macs_of_attention():
    graph = (
        "g (float[2,8,10,16] q, float[2,8,12,16] k, float[2,8,12,16] v) => (float[2,8,10,16] y) "
        "{ y = Attention (q, k, v) }"
    )
    assert measured(graph, opset=23).macs == 2 * 8 * (10 * 12 * 16 + 10 * 12 * 16)


def test_names_count_as_one_and_are_told():
    found = measured("g (float[batch,n,7] a, float[7,2] b) => (float[batch,n,2] y) { y = MatMul (a, b) }")
    assert found.macs == 14
    assert found.assumed == ["batch = 1", "n = 1"]
    assert found.peak_bytes == 4 * (7 + 14 + 2)


def test_unknown_shapes_give_no_number():
    found = measured("g (float[5,7] a) => (float[m,n] y) { b = com.microsoft.NobodyKnows (a) y = MatMul (a, b) }")
    assert (found.nodes, found.macs, found.peak_bytes) == (2, None, None)


def test_costlier_branch_counts():
    graph = """g (bool c, float[5,7] a, float[7,2] b) => (float[5,2] y) {
        y = If (c) <
            then_branch = yes () => (float[5,2] p) { p = MatMul (a, b) },
            else_branch = no () => (float[5,2] q) {
                m = MatMul (a, b)
                n = Transpose (b)
                o = MatMul (m, n)
                q = MatMul (o, b)
            }
        >
    }"""
    assert measured(graph).macs == 3 * 70


def test_loop_counts_as_often_as_it_runs():
    body = "body (int64 i, bool c0, float[4,4] s) => (bool c1, float[4,4] t) { c1 = Identity (c0) t = MatMul (x, x) }"
    counted = (
        f"g (float[4,4] x) => (float[4,4] y) <int64 n = {{5}}, bool c = {{1}}> {{ y = Loop (n, c, x) <body = {body}> }}"
    )
    assert measured(counted).macs == 5 * 64
    open_ended = (
        f"g (int64 n, float[4,4] x) => (float[4,4] y) <bool c = {{1}}> {{ y = Loop (n, c, x) <body = {body}> }}"
    )
    found = measured(open_ended)
    assert found.macs == 64
    assert found.assumed == ["one iteration of body"]


def test_each_call_of_a_function_counts():
    graph = "g (float[4,4] x) => (float[4,4] y) { a = mine.square (x) y = mine.square (a) }"
    function = '<domain: "mine", opset_import: ["" : 17]> square (v) => (w) { w = MatMul (v, v) }'
    found = measured(graph, functions=function)
    assert found.macs in (None, 128)  # None where the shapes inside of a function are not inferred
    plain = '<domain: "mine", opset_import: ["" : 17]> square (v) => (w) { w = Mul (v, v) }'
    assert measured(graph, functions=plain).macs == 0


def test_memory_of_a_chain():
    graph = "g (float[100] x) => (float[100] y) { a = Neg (x) b = Abs (a) c = Neg (b) y = Abs (c) }"
    assert measured(graph).peak_bytes == 2 * 400


def test_memory_of_a_residual_holds_the_shortcut():
    graph = "g (float[100] x) => (float[100] y) { a = Neg (x) b = Abs (a) c = Neg (b) y = Add (a, c) }"
    assert measured(graph).peak_bytes == 3 * 400


def test_views_take_no_memory_but_keep_their_source():
    graph = """g (float[100] x) => (float[10,10] y) <int64[2] s = {10, 10}> {
        a = Neg (x)
        r = Reshape (a, s)
        b = Abs (x)
        c = Reshape (b, s)
        y = Add (r, c)
    }"""
    assert measured(graph).peak_bytes == 3 * 400


def test_weights_are_no_activations():
    graph = """g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> {
        c = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
        a = Add (x, w)
        y = Add (a, c)
    }"""
    found = measured(graph)
    assert found.peak_bytes == 2 * 16
    assert (found.parameters, found.nodes) == (8, 3)


def test_values_read_in_a_body_live_as_long_as_it():
    graph = """g (bool c, float[100] x) => (float[100] y) {
        a = Neg (x)
        b = Abs (x)
        y = If (c) <
            then_branch = yes () => (float[100] p) { p = Neg (a) },
            else_branch = no () => (float[100] q) { q = Neg (b) }
        >
    }"""
    assert measured(graph).peak_bytes == 3 * 400 + 1


def test_what_is_computed_from_constants_is_a_weight():
    graph = """g (float[4] x) => (float[4] y) <int8[4] q = {1, 2, 3, 4}, float s = {0.5}, int8 z = {0}> {
        w = DequantizeLinear (q, s, z)
        n = Neg (w)
        y = Add (x, n)
    }"""
    found = measured(graph)
    assert (found.peak_bytes, found.assumed) == (2 * 16, [])


def test_quantized_activations_take_the_room_of_integers():
    graph = """g (float[100] x) => (float[100] y) <float s = {0.5}, uint8 z = {0}> {
        a = QuantizeLinear (x, s, z)
        b = DequantizeLinear (a, s, z)
        c = Neg (b)
        d = QuantizeLinear (c, s, z)
        e = DequantizeLinear (d, s, z)
        y = Neg (e)
    }"""
    found = measured(graph)
    assert found.peak_bytes == 400 + 100  # x and its integers, or integers and y
    assert found.assumed == ["Q/DQ fused into the operators around them"]


def test_types_narrower_than_a_byte():
    graph = "g (float[100] x) => (uint4[100] y) <float s = {0.5}, uint4 z = {0}> { y = QuantizeLinear (x, s, z) }"
    assert measured(graph, opset=21).peak_bytes == 400 + 50


def test_operators_carry_their_domain(tmp_path: Path):
    found = measured("g (float[4] x) => (float[4] y) { a = com.microsoft.Gelu (x) y = Neg (a) }")
    assert found.operators == {"com.microsoft.Gelu": 1, "Neg": 1}
    assert found.file_bytes is None


def test_cost_is_linear():
    def seconds(nodes: int) -> float:
        graph = onnx.parser.parse_graph("g (float[8] x0) => (float[8] y) {  y = Neg (x0) }")
        del graph.node[:]
        graph.node.extend(onnx.helper.make_node("Add", [f"x{i}", f"x{i}"], [f"x{i + 1}"]) for i in range(nodes))
        graph.output[0].name = f"x{nodes}"
        proto = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
        model = graphopt.load(proto.SerializeToString())
        measure(model)
        start = time.perf_counter()
        measure(model)
        return time.perf_counter() - start

    assert seconds(8_000) < 40 * max(seconds(1_000), 0.005)


def test_constants_that_are_nodes_count_as_the_initializers_that_they_become() -> None:
    found = graphopt.load(
        onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}>
        {
            a = Constant <value_floats = [1.0, 2.0]> ()
            b = Constant <value_float = 3.0> ()
            c = Constant <value = float[2] {1, 2}> ()
            d = Sum (x, a, b, c)
            y = Mul (d, w)
        }""")
    )
    assert found.parameters() == 7
    assert graphopt.optimize(found, "cleanup", verify=False).report.after.parameters == 3  # a, c and w are one
