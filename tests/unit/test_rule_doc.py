"""What is said of a rule without a model: its equation, its parameters, where it applies."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import ANY, Attr, Const, Domain, Node, Rule, Tensor, approx, many, op, product, require, rule, total
from graphopt.engine.catalog import find_rules
from graphopt.rules import doc


def lines(r: Rule[Any]) -> list[str]:
    return doc.equation_lines(r)


# -- equations -------------------------------------------------------------------------------------


def test_signs_and_brackets() -> None:
    @rule(lambda x, y: (op.Exp(x + y * 2 - (x - y)) / (x * y), op.Sin(-x ** -(x @ y))))
    def signs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Two outputs with many signs."""
        return x - (y - x), x / (y / 2) * (x + y)

    assert lines(signs) == [
        "Exp(x + y * 2 - (x - y)) / (x * y), Sin(-x ** (-(x @ y)))",
        "  →  x - (y - x), x / (y / 2) * (x + y)",
    ]


def test_products_and_sums_are_written_once() -> None:
    @rule(lambda x, y, z: op.Exp(product(x, y, z, 0.5) | total(x, y, z) | x * y * z))
    def associations(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """A product or a sum."""
        return x

    assert lines(associations) == ["Exp(product(x, y, z, 0.5) | total(x, y, z) | x * y * z)  →  x"]
    assert doc.notation(lines(associations)) == [
        ("a | b", "either of them"),
        ("product(…)", "all multiplied, in any order and association"),
        ("total(…)", "all added, in any order and association"),
    ]


def test_what_an_author_gave_a_name_keeps_it() -> None:
    def _named(x: Tensor) -> Tensor:
        inner = op.Sin(x)
        unused = op.Cos(x)
        del unused
        return inner * op.Exp(inner)

    @rule(_named)
    def named(x: Tensor) -> Tensor:
        """A sine that is used twice."""
        return op.Sin(x)

    assert lines(named) == ["inner * Exp(inner)  →  Sin(x)", "  where inner = Sin(x)"]


def test_all_forms() -> None:
    own = Domain("own.domain")

    def _forms(x: Tensor, xs: list[Tensor], a: Attr[int], c: Const | None, n: Node) -> tuple[Tensor, Tensor]:
        _, second = own.Twin(x, mode="fast", level=0.25, nout=2)
        first = n.bind(op.any("Max", "Min")(second, x))
        return op.Concat(*many(xs, each=op.Relu), axis=a) + first, op.Clip(x, None, c) * approx(0.5, rtol=0.01)

    @rule(_forms, bounded=True, single_use=False)
    def forms(x: Tensor, xs: list[Tensor], a: int, c: Tensor | None, n: Node) -> tuple[Tensor, Tensor]:
        """Everything that there is."""
        require(a == 1, "the axis is another one")
        return x, x

    assert lines(forms) == [
        "Concat(*Relu(xs), axis=a) + n, Clip(x, _, c) * approx(0.5, rtol=0.01)  →  …",
        "  where n = any(Max, Min)(own.domain.Twin(x, mode='fast', level=0.25)[1], x)",
    ]
    assert doc.parameters(forms) == [
        ("x", "a tensor"),
        ("xs", "a list, of which each is a tensor"),
        ("a", "an attribute (int)"),
        ("c", "a constant, or left out"),
        ("n", "the node"),
    ]
    assert doc.traits(forms) == ["interior values may have other readers", "may leave as many operators as it found"]


def test_attributes_and_literals() -> None:
    @rule(lambda x: op.Pad(op.Gemm(x, [[1.0, 2.0]], ..., alpha=ANY, transB=1), [1, 2], mode="edge"))
    def padded(x: Tensor) -> Tensor:
        """A Pad."""
        return x

    assert lines(padded) == ["Pad(Gemm(x, [[1.0, 2.0]], alpha=any, transB=1, …), [1, 2], mode='edge')  →  x"]


def test_a_right_side_that_depends_on_none_is_not_shown_as_if_it_did_not() -> None:
    def _clip(x: Tensor, lo: Const | None) -> Tensor:
        return op.Exp(op.Clip(x, lo))

    @rule(_clip)
    def either(x: Tensor, lo: Tensor | None) -> Tensor:
        """The exponential, clipped below or not."""
        return op.Exp(x) if lo is None else op.Clip(x, lo)

    assert lines(either) == ["Exp(Clip(x, lo))  →  …"]


# -- opsets and targets ----------------------------------------------------------------------------


def test_opsets_of_a_left_side() -> None:
    @rule(lambda x: op.ReduceMean(x, axes=[1]) | op.Gelu(x))
    def two_ranges(x: Tensor) -> Tensor:
        """An attribute that there was once, or an operator that there is now."""
        return x

    assert doc.opset_text(two_ranges) == "up to 17, from 20 on"

    @rule(lambda x, a: op.ReduceMean(x, op.Neg(a)))
    def by_input(x: Tensor, a: Tensor) -> Tensor:
        """An input that there is since 18."""
        return x

    assert doc.opset_text(by_input) == "from 18 on"

    @rule(lambda x: op.Upsample(x, [2.0]))
    def gone(x: Tensor) -> Tensor:
        """An operator that is gone."""
        return x

    assert doc.opset_text(gone) == "9"


def test_domains_decide_on_targets() -> None:
    @rule(lambda x: x * op.Sigmoid(x))
    def quick(x: Tensor) -> Tensor:
        """An operator of another domain."""
        return Domain("com.microsoft").QuickGelu(x, alpha=1.0)

    assert doc.domains(quick) == ["com.microsoft"]
    assert doc.takers(quick) == ["ort-arm", "ort-avx2", "ort-cpu", "ort-cuda"]
    assert doc.target_text(quick) == "ort-arm, ort-avx2, ort-cpu, ort-cuda, for it makes operators of com.microsoft"


def test_operators_named_by_helpers_are_found() -> None:
    (named,) = find_rules("fuse.hard_swish")
    assert doc.replacement_operators(named.rule) == ([("", "HardSigmoid"), ("", "HardSwish")], False)
    assert doc.opset_text(named.rule) == "any; where it makes HardSwish, from 14 on"


def test_numbers_in_equations() -> None:
    @rule(lambda x: x * (np.pi / 2) + 1e-12)
    def numbers(x: Tensor) -> Tensor:
        """Numbers."""
        return x

    assert lines(numbers) == ["x * 1.5708 + 1e-12  →  x"]
