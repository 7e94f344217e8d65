"""Matrix products: their weights, their bias, and the operators that Gemm stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphopt_passes.fuse import Fuse

from tests.rules.helpers import build, declines, fires, positive, rewrite, weight

FUSE = Fuse()
X = "(float[M,5] x) => (float[M,N] y)"

BIASES = [None, weight(3, seed=5), weight(1, 3, seed=5), weight(1, seed=5), weight(1, 1, seed=5), np.float32(0.5)]
GEMMS = [("Gemm", (5, 3)), ("Gemm<transB=1, alpha=0.5, beta=2.0>", (3, 5)), ("Gemm<beta=0.0>", (5, 3))]


def gemm(body: str, op: str = "Gemm", signature: str = X, *, before: str = "", **changes: Any) -> onnx.ModelProto:
    given = {"w": weight(5, 3), "b": weight(3, seed=5), **changes}
    operands = f"{'d' if before else 'x'}, w" + (", b" if given["b"] is not None else "")
    constants = {name: value for name, value in given.items() if value is not None}
    return build(signature, f"{before} g = {op}({operands}) {body}", **constants)


def bn(channels: int) -> dict[str, np.ndarray]:
    return {
        "gamma": weight(channels, seed=1), "beta": weight(channels, seed=2),
        "mean": weight(channels, seed=3), "var": positive(channels, seed=4),
    }  # fmt: skip


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("op", "shape"), GEMMS)
def test_bn_after_gemm(op: str, shape: tuple[int, int], bias: Any) -> None:
    body = "y = BatchNormalization(g, gamma, beta, mean, var)"
    fires(FUSE, gemm(body, op, w=weight(*shape), b=bias, **bn(3)), "gemm_bn", ["Gemm"], special=True)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("op", "shape"), GEMMS)
def test_bn_before_gemm(op: str, shape: tuple[int, int], bias: Any) -> None:
    before = "d = BatchNormalization(x, gamma, beta, mean, var)"
    model = gemm("y = Relu(g)", op, before=before, w=weight(*shape), b=bias, **bn(5))
    fires(FUSE, model, "bn_gemm", ["Gemm", "Relu"], special=True)


@pytest.mark.parametrize("bias", [None, weight(3, seed=5), weight(2, 3, seed=5)])
@pytest.mark.parametrize(("op", "shape"), GEMMS)
@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        ("Mul(g, k)", "gemm_scale"),
        ("Mul(k, g)", "gemm_scale"),
        ("Div(g, k)", "gemm_scale"),
        ("Add(k, g)", "gemm_shift"),
        ("Sub(g, k)", "gemm_shift"),
        ("Sub(k, g)", "gemm_shift"),
    ],
)
@pytest.mark.parametrize("constant", [(3,), (1, 3), ()])
def test_constant_after_gemm(
    op: str, shape: tuple[int, int], bias: Any, expression: str, rule: str, constant: tuple[int, ...]
) -> None:
    model = gemm(f"y = {expression}", op, w=weight(*shape), b=bias, k=positive(*constant, seed=6))
    fires(FUSE, model, rule, ["Gemm"])


@pytest.mark.parametrize(
    ("body", "changes", "rule", "reason"),
    [
        ("y = Mul(g, k)", {"k": positive(2, 1)}, "gemm_scale", "varies along other axes"),
        ("y = Add(g, k)", {"k": positive(2, 3)}, "gemm_shift", "varies along other axes"),
        ("y = Mul(g, k)", {"k": positive(1, 1, 3), "signature": "(float[M,5] x) => (float[L,M,N] y)"},
         "gemm_scale", "varies along other axes"),
        ("y = Mul(g, k)", {"k": positive(4), "w": weight(5, 1), "b": None}, "gemm_scale", "another number of channels"),
        ("y = Mul(g, k)", {"b": weight(2, 1), "k": 2.0}, "gemm_scale", "varies along other axes"),
        ("y = Mul(g, k)", {"k": float("nan")}, "gemm_scale", "a constant is not finite"),
        ("y = Div(g, k)", {"k": 0.0}, "gemm_scale", "Reciprocal of finite constants is not finite"),
        ("y = Div(k, g)", {"k": 2.0}, "gemm_scale", None),
        ("y = Mul(g, k) z = MatMul(x, w)", {"k": positive(3), "signature": "(float[M,5] x) => (float[M,N] y, float[M,N] z)"},
         "gemm_scale", "the weights have other readers"),
    ],
)  # fmt: skip
def test_constant_that_stays(body: str, changes: dict[str, Any], rule: str, reason: str | None) -> None:
    declines(FUSE, gemm(body, **changes), rule, reason)


def test_gemm_that_is_an_output() -> None:
    model = gemm("y = Mul(g, k)", k=2.0, signature="(float[M,5] x) => (float[M,N] y, float[M,N] g)")
    declines(FUSE, model, "gemm_scale", "an interior value has other readers")


def test_gemm_of_integers() -> None:
    signature = "(int32[M,5] x) => (int32[M,3] y)"
    model = build(signature, "g = Gemm(x, w) y = Mul(g, k)", w=np.ones((5, 3), np.int32), k=np.int32(3))
    declines(FUSE, model, "gemm_scale", "integers wrap around")


# -- MatMul ---------------------------------------------------------------------------------------


def matmul(body: str, signature: str = X, opset: int = 18, **changes: Any) -> onnx.ModelProto:
    return build(signature, f"m = MatMul(x, w) {body}", opset=opset, **{"w": weight(5, 3), **changes})


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
@pytest.mark.parametrize("body", ["y = Add(m, b)", "y = Add(b, m)"])
@pytest.mark.parametrize("bias", [(3,), (1, 3), (1,), ()])
def test_matmul_and_bias(opset: int, body: str, bias: tuple[int, ...]) -> None:
    outcome = fires(FUSE, matmul(body, opset=opset, b=weight(*bias)), "matmul_add", ["Gemm"], special=True)
    b = next(i for i in outcome.after.graph.initializer if i.name == outcome.node("Gemm").input[2])
    assert list(b.dims) == [3]


def test_matmul_and_bias_of_half_precision() -> None:
    model = matmul(
        "y = Add(m, b)", "(float16[M,5] x) => (float16[M,3] y)", w=weight(5, 3, dtype=np.float16),
        b=weight(3, dtype=np.float16),
    )
    fires(FUSE, model, "matmul_add", ["Gemm"])


@pytest.mark.parametrize(
    ("signature", "body", "changes", "reason"),
    [
        ("(float[B,M,5] x) => (float[B,M,3] y)", "y = Add(m, b)", {}, "Gemm takes matrices only"),
        ("(float[5] x) => (float[3] y)", "y = Add(m, b)", {}, "Gemm takes matrices only"),
        (X, "y = Add(m, b)", {"w": weight(2, 5, 3)}, "Gemm takes matrices only"),
        (X, "y = Add(m, b)", {"b": weight(1, 1, 3)}, "a vector or a matrix"),
        (X, "y = Add(m, b)", {"b": weight(2, 1)}, "raise the size"),
        (X, "y = Add(m, b)", {"w": weight(5, 1)}, "another number of channels"),
        ("(int32[M,5] x) => (int32[M,3] y)", "y = Add(m, b)",
         {"w": np.ones((5, 3), np.int32), "b": np.ones(3, np.int32)}, "integers wrap around"),
        ("(float[M,5] x) => (float[M,3] y, float[M,3] m)", "y = Add(m, b)", {}, "an interior value has other readers"),
    ],
)  # fmt: skip
def test_matmul_and_bias_that_stay(signature: str, body: str, changes: dict[str, Any], reason: str) -> None:
    changes = {"b": weight(3), **changes}
    if changes["b"].ndim == 3 or changes.get("w", changes["b"]).ndim == 3:
        signature = signature.replace("float[M,N] y", "float[B,M,N] y")
    declines(FUSE, matmul(body, signature, **changes), "matmul_add", reason)


def test_matmul_of_computed_operands() -> None:
    model = build("(float[M,5] x, float[5,3] w) => (float[M,3] y)", "m = MatMul(x, w) y = Add(m, b)", b=weight(3))
    fires(FUSE, model, "matmul_add", ["Gemm"], special=True)


@pytest.mark.parametrize("body", ["y = Add(m, b)", "y = Add(b, m)", "y = Sub(m, b)"])
@pytest.mark.parametrize("shape", ["3", "1,3", "M,3", "M,1", "1", "1,1"])
def test_matmul_and_computed_summand(body: str, shape: str) -> None:
    signature = f"(float[M,5] x, float[5,3] w, float[{shape}] b) => (float[M,3] y)"
    outcome = fires(FUSE, build(signature, f"m = MatMul(x, w) {body}"), "matmul_add", ["Gemm"], special=True)
    assert outcome.attrs("Gemm") == ({"beta": -1.0} if "Sub" in body else {})


@pytest.mark.parametrize("shape", ["K", "K,3", "1,M,3", ""])
def test_matmul_and_computed_summand_that_stay(shape: str) -> None:
    result = "1,M,3" if shape.startswith("1,") else "P,3"
    signature = f"(float[M,5] x, float[5,3] w, float{f'[{shape}]' if shape else ''} b) => (float[{result}] y)"
    model = build(signature, "m = MatMul(x, w) y = Add(m, b)")
    declines(FUSE, model, "matmul_add", "may raise the size|a vector or a matrix")


@pytest.mark.parametrize(("body", "beta"), [("y = Add(g, b)", None), ("y = Add(b, g)", None), ("y = Sub(g, b)", -1.0)])
@pytest.mark.parametrize("op", ["Gemm<alpha=0.5>", "Gemm<transB=1, transA=1>"])
def test_summand_of_gemm(body: str, beta: float | None, op: str) -> None:
    turned = "trans" in op
    signature = f"(float[{'5,M' if turned else 'M,5'}] x, float[{'3,5' if turned else '5,3'}] w, float[M,3] b) => (float[M,3] y)"
    outcome = fires(FUSE, build(signature, f"g = {op}(x, w) {body}"), "gemm_add", ["Gemm"], special=True)
    assert outcome.attrs("Gemm").get("beta") == beta


def test_summand_of_gemm_that_stays() -> None:
    signature = "(float[M,5] x, float[5,3] w, float[M,3] b) => (float[M,3] y)"
    declines(FUSE, build(signature, "g = Gemm(x, w, b) y = Add(g, b)"), "gemm_add", "has a bias already")
    declines(FUSE, build(signature, "g = Gemm<beta=0.5>(x, w, b) y = Add(g, b)"), "gemm_add", "has a bias already")
    fires(FUSE, build(signature, "g = Gemm<beta=0.0>(x, w, b) y = Add(g, b)"), "gemm_add", ["Gemm"])


TWO = "(float[M,5] x, float[5,3] w, float[3] c) => (float[M,3] y)"


@pytest.mark.parametrize("scale", ["y = Mul(g, k)", "y = Mul(k, g)", "y = Div(g, k)"])
@pytest.mark.parametrize("op", ["Gemm(x, w)", "Gemm<alpha=0.5, beta=3.0>(x, w, c)"])
def test_number_after_gemm(scale: str, op: str) -> None:
    fires(FUSE, build(TWO, f"g = {op} {scale}", k=np.float32(0.25)), "gemm_number", ["Gemm"], special=True)
    shared = "(float[M,5] x) => (float[M,3] y, float[M,3] z)"
    model = build(shared, f"g = {op} {scale} z = MatMul(x, w)", k=np.float32(0.25), w=weight(5, 3), c=weight(3))
    fires(FUSE, model, "gemm_number", ["Gemm", "MatMul"])


@pytest.mark.parametrize("scale", ["y = Mul(g, k)", "y = Div(g, k)"])
def test_number_after_matmul(scale: str) -> None:
    fires(FUSE, build(TWO, f"g = MatMul(x, w) {scale}", k=np.float32([[4]])), "matmul_number", ["Gemm"], special=True)


@pytest.mark.parametrize(
    ("k", "signature", "reason"),
    [
        (np.float32([1, 2, 3]), TWO, "change|raise the size"),
        (np.float32(0), TWO, "0, infinite or NaN"),
        (np.float32(np.inf), TWO, "0, infinite or NaN"),
        (np.float32([[[2]]]), TWO.replace("[M,3] y", "[1,M,3] y"), "raises the rank"),
        (np.float64(2), TWO.replace("float", "double"), "alpha is a float32"),
        (np.int32(2), TWO.replace("float", "int32"), "wrap around"),
    ],
)
def test_number_that_stays(k: np.ndarray, signature: str, reason: str) -> None:
    declines(FUSE, build(signature, "g = MatMul(x, w) y = Mul(g, k)", k=k), "matmul_number", reason)


@pytest.mark.parametrize(("op", "shape"), [("Gemm(x2, w, b)", (5, 3)), ("Gemm<transB=1, alpha=0.5, beta=2.0>(x2, w, b)", (3, 5))])
@pytest.mark.parametrize("before", ["Mul(x, k)", "Mul(k, x)", "Div(x, k)", "Add(x, k)", "Sub(x, k)"])
@pytest.mark.parametrize("constant", [(5,), (1, 5), (1,), ()])
def test_constant_before_gemm(op: str, shape: tuple[int, ...], before: str, constant: tuple[int, ...]) -> None:
    model = build("(float[M,5] x) => (float[M,3] y)", f"x2 = {before} y = {op}", w=weight(*shape), b=weight(3),
                  k=positive(*constant))  # fmt: skip
    rule = "shift_gemm" if before[:3] in ("Add", "Sub") else "scale_gemm"
    fires(FUSE, model, rule, ["Gemm"], special=True)


@pytest.mark.parametrize("body", ["x2 = Add(x, k) y = Gemm(x2, w, b)", "x2 = Mul(x, k) y = Gemm(x2, w, b)"])
def test_constant_before_gemm_that_gives_the_size(body: str) -> None:
    model = build("(float[M,1] x) => (float[M,3] y)", body, w=weight(5, 3), b=weight(3), k=positive(5))
    declines(FUSE, model, "shift_gemm" if "Add" in body else "scale_gemm", "raise the size")
    rows = build("(float[2,5] x) => (float[2,3] y)", body, w=weight(5, 3), b=weight(3), k=positive(2, 1))
    declines(FUSE, rows, "shift_gemm" if "Add" in body else "scale_gemm", "varies along other axes")


@pytest.mark.parametrize("signature", [X, "(float[B,M,5] x) => (float[B,M,3] y)", "(float[5] x) => (float[3] y)"])
@pytest.mark.parametrize("before", ["Mul(x, k)", "Div(x, k)"])
def test_factor_before_matmul(signature: str, before: str) -> None:
    model = build(signature, f"x2 = {before} y = MatMul(x2, w)", w=weight(5, 3), k=positive(5))
    fires(FUSE, model, "scale_matmul", ["MatMul"], special=True)


@pytest.mark.parametrize("scale", ["Mul(a, k)", "Div(a, k)"])
@pytest.mark.parametrize("constant", [(3,), ()])
def test_factor_after_matmul_with_bias(scale: str, constant: tuple[int, ...]) -> None:
    model = build("(float[B,M,5] x) => (float[B,M,3] y)", f"m = MatMul(x, w) a = Add(m, b) y = {scale}",
                  w=weight(5, 3), b=weight(3), k=positive(*constant))  # fmt: skip
    fires(FUSE, model, "matmul_bias_scale", ["MatMul", "Add"], special=True)


@pytest.mark.parametrize(("body", "constant", "rule"), [
    ("m = MatMul(w, x) y = Mul(m, k)", (3, 1), "left_matmul_scale"),
    ("m = MatMul(w, x) y = Div(m, k)", (), "left_matmul_scale"),
    ("x2 = Mul(x, k) y = MatMul(w, x2)", (5, 1), "left_scale_matmul"),
    ("x2 = Div(x, k) y = MatMul(w, x2)", (1,), "left_scale_matmul"),
])  # fmt: skip
@pytest.mark.parametrize("lead", ["", "B,", "2,B,"])
def test_factor_around_constant_left_matrix(body: str, constant: tuple[int, ...], rule: str, lead: str) -> None:
    signature = f"(float[{lead}5,N] x) => (float[{lead}3,N] y)"
    fires(FUSE, build(signature, body, w=weight(3, 5), k=positive(*constant)), rule, ["MatMul"], special=True)


def test_factor_of_columns_beside_constant_left_matrix() -> None:
    model = build("(float[5,4] x) => (float[3,4] y)", "m = MatMul(w, x) y = Mul(m, k)", w=weight(3, 5), k=positive(4))
    declines(FUSE, model, "left_matmul_scale", "varies along other axes")


def test_bn_after_matmul() -> None:
    body = "m = MatMul(x, w) y = BatchNormalization(m, gamma, beta, mean, var)"
    model = build("(float[M,5] x) => (float[M,3] y)", body, w=weight(5, 3), **bn(3))
    fires(FUSE, model, "matmul_bn", ["Gemm"], special=True)
    three = build("(float[M,3,5] x) => (float[M,3,4] y)", body, w=weight(5, 4), **bn(3))
    declines(FUSE, three, "matmul_bn", "matrices only")


@pytest.mark.parametrize("signature", [X, "(float[B,M,5] x) => (float[B,M,3] y)"])
@pytest.mark.parametrize("body", ["y = Mul(m, k)", "y = Mul(k, m)", "y = Div(m, k)"])
@pytest.mark.parametrize("constant", [(3,), (1, 3), (1,), ()])
def test_factor_after_matmul(signature: str, body: str, constant: tuple[int, ...]) -> None:
    fires(FUSE, matmul(body, signature, k=positive(*constant, seed=6)), "matmul_scale", ["MatMul"], special=True)


def test_factor_after_a_product_with_several_matrices() -> None:
    model = matmul("y = Mul(m, k)", "(float[M,5] x) => (float[2,M,3] y)", w=weight(2, 5, 3), k=positive(1, 1, 3))
    fires(FUSE, model, "matmul_scale", ["MatMul"])


def test_bias_and_factor_become_one_gemm() -> None:
    model = matmul("a = Mul(m, k) b = Add(a, k) c = Div(b, k) y = Sub(c, k)", k=positive(3))
    assert fires(FUSE, model, "matmul_add", ["Gemm"]).fired.total() == 4


@pytest.mark.parametrize(
    ("signature", "body", "changes", "reason"),
    [
        (X, "y = Mul(m, k)", {"k": positive(2, 1)}, "varies along other axes"),
        (X, "y = Mul(m, k)", {"k": positive(1, 1, 3)}, "raises the rank"),
        ("(float[5] x) => (float[N] y)", "y = Mul(m, k)", {"k": positive(3)}, "an operand is a vector"),
        (X, "y = Mul(m, k)", {"k": positive(4), "w": weight(5, 1)}, "another number of channels"),
        ("(float[M,5] x) => (float[M,N] y, float[M,N] z)", "y = Mul(m, k) z = MatMul(x, w)", {"k": positive(3)},
         "the weights have other readers"),
    ],
)  # fmt: skip
def test_factor_after_matmul_that_stays(
    signature: str, body: str, changes: dict[str, Any], reason: str
) -> None:
    if getattr(changes["k"], "ndim", 0) == 3:
        signature = signature.replace("float[M,N] y", "float[B,M,N] y")
    declines(FUSE, matmul(body, signature, **changes), "matmul_scale", reason)


# -- Transpose ------------------------------------------------------------------------------------


@pytest.mark.parametrize("perm", ["", "<perm=[1,0]>"])
@pytest.mark.parametrize("flag", [0, 1])
def test_transposed_factors(perm: str, flag: int) -> None:
    left, right = ("5,M", "3,5") if flag == 0 else ("M,5", "5,3")
    signature = f"(float[{left}] x, float[{right}] w, float[3] b) => (float[M,3] y)"
    for rule, body in (
        ("transpose_gemm", f"t = Transpose{perm}(x) y = Gemm<transA={flag}, transB={1 - flag}>(t, w, b)"),
        ("gemm_transpose", f"t = Transpose{perm}(w) y = Gemm<transB={flag}, transA={1 - flag}>(x, t, b)"),
    ):
        outcome = fires(FUSE, build(signature, body), rule, ["Gemm"])
        assert outcome.attrs("Gemm")["transA"] == outcome.attrs("Gemm")["transB"] == 1 - flag


def test_transpose_that_changes_nothing() -> None:
    model = build("(float[M,5] x) => (float[M,3] y)", "t = Transpose<perm=[0,1]>(x) y = Gemm(t, w)", w=weight(5, 3))
    declines(FUSE, model, "transpose_gemm", "the transpose changes nothing")


def test_transpose_that_something_else_reads() -> None:
    signature = "(float[5,M] x) => (float[M,3] y, float[M,5] t)"
    model = build(signature, "t = Transpose(x) y = Gemm(t, w)", w=weight(5, 3))
    declines(FUSE, model, "transpose_gemm", "an interior value has other readers")


def test_under_exact_nothing_fires() -> None:
    assert not rewrite(matmul("y = Add(m, b)", b=weight(3)), FUSE, accuracy="exact").fired
