"""Types and shapes: inferred once, refined, never taken from what a file merely claims."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import onnx
import onnx.helper
import onnx.parser
import onnx_ir as oir
import pytest

from graphopt.ir.dims import Dim, Shape, provably_equal
from graphopt.ir.facts import Facts, Inconsistent

N, S, H, W = (Dim.symbol(name) for name in "NSHW")
FLOAT, INT64, BOOL = oir.DataType.FLOAT, oir.DataType.INT64, oir.DataType.BOOL


class Known:
    """A parsed model, its facts, and its values by name (the innermost of a name, for bodies)."""

    def __init__(self, text: str, opset: int = 17, imports: str = "") -> None:
        self.proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{imports}]> {text}')
        self.model = oir.from_proto(self.proto)
        self.facts = Facts(self.model, self.proto)
        self.values: dict[str, oir.Value] = {}
        for graph in [*self.model.graphs(), *(f.graph for f in self.model.functions.values())]:
            for value in [*graph.inputs, *graph.initializers.values(), *(o for node in graph for o in node.outputs)]:
                self.values[value.name or ""] = value

    def shape(self, name: str) -> Shape | None:
        return self.facts.shape(self.values[name])

    def dtype(self, name: str) -> oir.DataType | None:
        return self.facts.dtype(self.values[name])

    def new(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attrs: object) -> oir.Node:
        return oir.node(op, [self.values[i] for i in inputs], attrs, domain=domain, num_outputs=outputs)


def unknown(size: int | Dim | None) -> bool:
    return isinstance(size, Dim) and size.is_anonymous


def test_graph_inputs_are_believed_and_their_unnamed_sizes_named() -> None:
    k = Known("g (float[N,?,3] x, float[?,N] z) => (y) { y = Relu(x) }")
    assert k.shape("x") == (N, Dim.unknown("?x.1"), 3)
    assert k.shape("y") == k.shape("x")
    assert k.shape("z") == (Dim.unknown("?z.0"), N)
    assert k.dtype("y") == FLOAT


def test_a_name_that_says_unknown_names_nothing() -> None:
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[H,H] x) => (y) { y = Relu(x) }')
    for dim in proto.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = "?"
    model = oir.from_proto(proto)
    first, second = Facts(model, proto).shape(model.graph.outputs[0]) or ()
    assert unknown(first) and unknown(second) and first != second


def test_value_info_and_output_shapes_of_the_file_are_not_believed() -> None:
    k = Known("g (float[N,4] x) => (float[7,9] y) <float[5,5] a, int64[3] b> { a = Relu(x) b = Shape(a) y = Relu(a) }")
    assert k.shape("a") == k.shape("y") == (N, 4)
    assert k.shape("b") == (2,)
    assert k.facts.problems == []


def test_value_info_is_all_there_is_for_an_unknown_domain() -> None:
    k = Known(
        "g (float[N,4] x) => (y) <float[N,9] a, float[2,2] y> { a = my.Op(x) y = Relu(a) }", imports=', "my" : 1'
    )
    assert k.shape("a") == k.shape("y") == (N, 9)
    assert k.facts.schema(k.model.graph[0]) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("t = Constant<value_ints=[0,-1,64]>() y = Reshape(x, t)", (N, 12 * S, 64)),
        ("s = Shape(x) y = Reshape(x, s)", (N, S, 12, 64)),
        ("y = Flatten<axis=2>(x)", (N * S, 768)),
        ("y = Concat<axis=1>(x, x, x)", (N, 3 * S, 12, 64)),
        ("a = Constant<value_ints=[0]>() b = Constant<value_ints=[9223372036854775807]>() y = Slice(x, a, b)",
         (N, S, 12, 64)),
        ("r = Constant<value_ints=[1,2,1,1]>() y = Tile(x, r)", (N, 2 * S, 12, 64)),
        ("p = Constant<value_ints=[0,1,0,0,0,2,0,0]>() y = Pad(x, p)", (N, S + 3, 12, 64)),
        ("t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(x2, t)", (N, 12, S, S)),
        ("s = Shape(x) y = ConstantOfShape(s)", (N, S, 12, 64)),
        ("s = Shape(x) o = Constant<value_float=1.0>() y = Expand(o, s)", (N, S, 12, 64)),
        ("y, z = Split<axis=1>(xx)", (N, S, 12, 64)),
    ],
)  # fmt: skip
def test_shapes_that_only_symbols_can_express(body: str, expected: Shape) -> None:
    before = "x2 = Transpose<perm=[0,2,1,3]>(x) xx = Concat<axis=1>(x, x)"
    k = Known(f"g (float[N,S,12,64] x) => (y) {{ {before} {body} }}")
    assert k.shape("y") == expected


def test_a_size_that_may_be_0_copies_the_old_one_in_reshape() -> None:
    """With S = 0 the target [N, S, -1] means [N, 12, ...], so S is not the size of the result."""
    k = Known(
        "g (float[N,12,S,64] x) => (y) { s = Shape(x) i = Constant<value_ints=[0,2]>() ns = Gather(s, i) "
        "m = Constant<value_ints=[-1]>() t = Concat<axis=0>(ns, m) y = Reshape(x, t) }"
    )
    shape = k.shape("y")
    assert shape is not None and shape[0] == N and unknown(shape[1]) and unknown(shape[2])


def test_slices_that_depend_on_the_size_stay_unknown() -> None:
    k = Known(
        "g (float[N,4] x) => (y) { a = Constant<value_ints=[1]>() b = Constant<value_ints=[9223372036854775807]>() "
        "y = Slice(x, a, b) }"
    )
    shape = k.shape("y")
    assert shape is not None and unknown(shape[0]) and shape[1] == 4


def test_branches_of_a_residual_network_keep_equal_sizes() -> None:
    k = Known(
        "g (float[N,3,H,W] x, float[8,3,3,3] w, float[8,3,1,1] v) => (y) {"
        "a = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w) b = Conv<strides=[2,2]>(x, v) y = Add(a, b)"
        "p = AveragePool<kernel_shape=[2,2],strides=[2,2]>(x) q = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) }"
    )
    assert k.shape("y") == k.shape("a") == k.shape("b") == (N, 8, (H + 1) // 2, (W + 1) // 2)
    pooled = k.shape("p")
    assert provably_equal(pooled, k.shape("q")) and pooled is not None and pooled[2] != H // 2, "1 pixel gives 1 in some"


def test_broadcasting_two_unrelated_sizes_stays_unknown() -> None:
    k = Known("g (float[N,S] x, float[H,1] z) => (y) { y = Add(x, z) w = Relu(y) }")
    shape = k.shape("y")
    assert shape is not None and unknown(shape[0]) and shape[1] == S
    assert provably_equal(k.shape("w"), shape)


def test_what_an_unknown_operator_passes_into_a_body_has_the_rank_that_is_declared() -> None:
    k = Known(
        "g (float[N,4] x) => (y) {"
        "y = com.example.Search <body = b (float[N,3] i) => (float[N,3] r) { r = Relu(i) }> (x) }",
        imports=', "com.example" : 1',
    )
    shape = k.shape("i")
    assert shape is not None and len(shape) == 2 and all(map(unknown, shape))  # this N may be another, and 3 a claim
    assert k.shape("r") == shape and N not in shape


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_the_normalization_that_onnx_runtime_takes_at_any_opset_has_a_type(op: str) -> None:
    k = Known(f"g (float[N,S,8] x, float[8] s) => (y) {{ y = {op} <axis = -1> (x, s) }}", opset=11)
    assert (k.dtype("y"), k.shape("y")) == (FLOAT, (N, S, 8))
    assert k.facts.problems  # and is no operator of ONNX, so that no rule takes it for one


def test_types_of_attention_and_embedding_of_onnx_runtime() -> None:
    k = Known(
        """g (int32[N,S] ids, float[9,8] words, float[5,8] places, float[8] s, float[8] t, float[8,24] w, float[24] b)
        => (a) { e, mask, sum = com.microsoft.EmbedLayerNormalization (ids, , words, places, , s, t)
          a = com.microsoft.Attention <num_heads = 2> (e, w, b)
          c = com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [8, 8, 4]> (e, w, b) }""",
        imports=', "com.microsoft" : 1',
    )
    assert (k.dtype("e"), k.shape("e")) == (k.dtype("sum"), k.shape("sum")) == (FLOAT, (N, S, 8))
    assert (k.dtype("mask"), k.shape("mask")) == (None, None)
    assert k.shape("a") == (N, S, 8)
    assert k.shape("c") == (N, S, 4)


def test_bodies_of_if_and_loop() -> None:
    k = Known(
        "g (float[N,4] x, bool c, int64 m) => (y, last, all) {"
        "y = If(c) <then_branch = t () => (a) { a = Relu(x) }, else_branch = e () => (b) { q = Neg(x) b = Abs(q) }>"
        "last, all = Loop(m, c, x) <body = b (int64 i, bool c1, float[7] v) => (bool c2, float[9] v2, v3) "
        "{ c2 = Identity(c1) v2 = Concat<axis=0>(v, x) v3 = Relu(x) }> }"
    )
    assert k.shape("a") == k.shape("q") == k.shape("y") == (N, 4)
    assert k.dtype("v") == FLOAT and k.shape("v") is None, "the state of a loop may change its shape"
    assert k.shape("last") is None and k.dtype("last") == FLOAT
    shape = k.shape("all")
    assert shape is not None and len(shape) == 3 and unknown(shape[1]), "without iterations there is no N"


def test_branches_that_differ_have_what_they_share() -> None:
    k = Known(
        "g (float[N,4] x, float[2,4] z, bool c) => (y) {"
        "y = If(c) <then_branch = t () => (a) { a = Relu(x) }, else_branch = e () => (b) { b = Relu(z) }> }"
    )
    shape = k.shape("y")
    assert shape is not None and unknown(shape[0]) and shape[1] == 4


def test_constants() -> None:
    k = Known(
        "g (float[2] x, float[2] d, bool q) => (y) <float[2] w = {1.5, 1.5}, float[2] d = {0.0, 0.0}> "
        "{ c = Constant<value_float=0.1>() y = Add(x, w) "
        "z = If(q) <then_branch = t () => (a) { a = Add(x, w) }, else_branch = e () => (b) { b = Relu(x) }> }"
    )
    facts = k.facts
    assert facts.const(k.values["x"]) is None
    assert facts.const(k.values["d"]) is None, "a caller may give another value"
    assert facts.splat(k.values["w"]) == np.float32(1.5)
    assert facts.dtype(k.values["c"]) == FLOAT and facts.shape(k.values["c"]) == ()
    assert facts.splat(k.values["c"]).tobytes() == np.float32(0.1).tobytes()
    array = facts.array(k.values["w"])
    assert array is not None and array.tolist() == [1.5, 1.5]


def test_before_ir_version_4_initializers_are_inputs_and_constants() -> None:
    k = Known("g (float[2] x, float[2] w) => (y) <float[2] w = {1.5, 1.5}> { y = Add(x, w) }")
    k.model.ir_version = 3
    assert Facts(k.model, k.proto).const(k.values["w"]) is not None


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((3, 70000), -0.0, np.float32), "-0.0"),
        (np.array([0.0, -0.0], np.float32), "None"),
        (np.array([], np.float32), "None"),
        (np.array(np.nan, np.float16), "nan"),
        (np.zeros(1_000_001, np.int8), "None"),
        (np.r_[np.zeros(100_000, np.int8), np.ones(1, np.int8)], "None"),
    ],
)
def test_splat_is_bit_for_bit(array: np.ndarray, expected: str) -> None:
    k = Known("g (float[2] x) => (y) { y = Relu(x) }")
    value = oir.Value(name="c", const_value=oir.Tensor(array))
    k.facts.add_constant(value)
    assert str(k.facts.splat(value)) == expected
    k.facts.forget(value)
    assert k.facts.const(value) is None and k.facts.dtype(value) is None


def test_a_local_function_called_like_an_operator_is_not_that_operator() -> None:
    k = Known(
        'g (float[N,4] x) => (y) { y = Relu(x) z = Abs(y) } <domain: "", opset_import: ["" : 17]> Relu (v) => (w) '
        "{ w = Shape(v) }"
    )
    assert k.dtype("y") == INT64 and k.shape("y") == (2,)
    assert k.dtype("z") == INT64
    call, abs_ = k.model.graph
    assert k.facts.schema(call) is None
    assert k.facts.schema(abs_) is not None
    assert k.shape("v") == (N, 4)


FUNCTION = """<domain: "l", opset_import: ["" : 17]>
f <axis> (v) => (w) { w = Softmax<axis: int = @axis>(v) u = Relu(w) }"""


def test_a_function_body_knows_what_all_calls_share() -> None:
    one = Known(f"g (float[N,4] x) => (y) {{ a = l.f<axis=1>(x) y = l.f<axis=1>(a) }} {FUNCTION}", imports=', "l" : 1')
    assert one.shape("v") == one.shape("u") == one.shape("y") == (N, 4)
    two = Known(
        f"g (float[N,4] x, float[2,4] z) => (y) {{ a = l.f<axis=1>(x) y = l.f<axis=0>(z) }} {FUNCTION}",
        imports=', "l" : 1',
    )
    shape = two.shape("v")
    assert shape is not None and unknown(shape[0]) and shape[1] == 4
    assert two.dtype("v") == FLOAT
    never = Known(f"g (float[N,4] x) => (y) {{ y = Relu(x) }} {FUNCTION}", imports=', "l" : 1')
    assert never.dtype("v") is None and never.shape("v") is None


def test_functions_that_explode_or_recur_cost_nothing() -> None:
    levels = "".join(
        f'<domain: "l", opset_import: ["" : 17, "l" : 1]> f{i} (v) => (w) {{ t = l.f{i + 1}(v) w = l.f{i + 1}(t) }} '
        for i in range(26)
    )
    last = '<domain: "l", opset_import: ["" : 17, "l" : 1]> f26 (v) => (w) { w = Relu(v) } '
    loop = '<domain: "l", opset_import: ["" : 17, "l" : 1]> r (v) => (w) { w = l.r(v) }'
    start = time.perf_counter()
    main = "g (float[N] x) => (y) { y = l.f0(x) z = l.r(x) a = Relu(x) }"
    k = Known(f"{main} {levels}{last}{loop}", imports=', "l" : 1')
    assert time.perf_counter() - start < 5
    assert k.shape("a") == (N,)


def test_one_impossible_node_costs_only_its_own_facts() -> None:
    k = Known("g (float[N,4] x) => (y) { a = Unsqueeze(x) b = Relu(x) c = Neg(a) d = Foo(x) y = Abs(b) }")
    assert k.shape("y") == (N, 4)
    assert k.dtype("a") is None and k.dtype("c") is None and k.dtype("d") is None
    assert any("Unsqueeze" in problem for problem in k.facts.problems)


# -- new nodes ---------------------------------------------------------------------------------------------


def test_new_nodes_are_inferred_with_symbols() -> None:
    k = Known("g (float[N,S,12] x, float[12,5] w) => (y) { s = Shape(x) y = Relu(x) }")
    node = k.new("MatMul", "x", "w")
    k.facts.infer(node)
    assert k.facts.shape(node.outputs[0]) == (N, S, 5)
    reshape = k.new("Reshape", "y", "s")
    k.facts.infer(reshape)
    assert k.facts.shape(reshape.outputs[0]) == (N, S, 12)
    k.facts.forget(node.outputs[0])
    assert k.facts.dtype(node.outputs[0]) is None
    k.facts.copy(k.values["s"], node.outputs[0])
    assert k.facts.dtype(node.outputs[0]) == INT64


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "reason"),
    [
        ("Gelu", ["x"], {}, "Gelu does not exist at opset 17 of the model; it came with 20"),
        ("Upsample", ["x", "x"], {}, "Upsample does not exist at opset 17 of the model; it was withdrawn with 10"),
        ("Foo", ["x"], {}, "Foo is no operator of ONNX"),
        ("Add", ["x", "i"], {}, "Add is refused: its inputs are float and int64"),
        ("Add", ["x"], {}, "Add takes 2 inputs, not 1"),
        ("Relu", ["b"], {}, "Relu is refused: its input X cannot be bool"),
        ("Mul", ["z", "z5"], {}, "Mul is refused: sizes 4 and 5 do not broadcast"),
        ("MatMul", ["z", "z5"], {}, "MatMul is refused: Incompatible dimensions for matrix multiplication"),
        ("Concat", ["x", "x"], {}, "Concat is refused: Required attribute 'axis' is missing."),
        ("Softmax", ["x"], {"colour": 3}, "Softmax is refused: Unrecognized attribute: colour for operator Softmax"),
        ("Softmax", ["x"], {"axis": 1.5},
         "Softmax is refused: Mismatched attribute type in ' : axis'. Expected: 'INT', actual: 'FLOAT'"),
    ],
)  # fmt: skip
def test_nodes_that_onnx_refuses(op: str, inputs: list[str], attrs: dict[str, object], reason: str) -> None:
    k = Known("g (float[N,4] x, int64[N,4] i, bool[4] b, float[3,4] z, float[3,5] z5) => (y) { y = Relu(x) }")
    with pytest.raises(Inconsistent) as raised:
        k.facts.infer(k.new(op, *inputs, **attrs))
    assert str(raised.value) == reason


def test_an_operator_without_schema_is_what_the_caller_says() -> None:
    k = Known("g (float[N,4] x) => (y) { y = Relu(x) }")
    node = k.new("FusedThing", "x", domain="com.microsoft")
    k.facts.infer(node)
    assert k.facts.dtype(node.outputs[0]) is None
    k.facts.infer(node, assume=[(FLOAT, (N, 4))])
    assert k.facts.dtype(node.outputs[0]) == FLOAT and k.facts.shape(node.outputs[0]) == (N, 4)


def test_opsets_and_defaults() -> None:
    k = Known("g (float[N,4] x) => (y) { y = Softmax(x) }", imports=', "ai.onnx.ml" : 2')
    softmax = k.model.graph[0]
    assert k.facts.opset("", k.model.graph) == k.facts.opset("ai.onnx", softmax) == 17
    assert k.facts.opset("ai.onnx.ml") == 2 and k.facts.opset("my") is None
    assert k.facts.default_attr(softmax, "axis") == -1
    assert k.facts.default_attr(softmax, "colour") is None


def test_a_chain_of_many_nodes_is_linear() -> None:
    def seconds(count: int) -> float:
        names = ["x", *(f"v{i}" for i in range(count))]
        nodes = [onnx.helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
        graph = onnx.helper.make_graph(
            nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, ["N", 4])], [onnx.ValueInfoProto(name=names[-1])]
        )
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        model = oir.from_proto(proto)
        start = time.perf_counter()
        facts = Facts(model, proto)
        assert facts.shape(model.graph.outputs[0]) == (N, 4)
        return time.perf_counter() - start

    seconds(10)
    assert seconds(20_000) < 12 * min(seconds(4_000), seconds(4_000)) + 0.2
