"""Einsum as the operators that it is: Transpose, ReduceSum, Mul, or MatMul between at most two Transposes.

Runtimes compute Einsum as transposes, reshapes and a product, each time they run and for themselves; spelled out, its
parts meet those around it.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt_passes.simplify.reading import same_sizes

from graphopt import Attr, Tensor, op, require, rule

_DOTS = "ABCDEFGH"[::-1]  # labels that stand for the axes of "...", the last axis first


def _one(x: Tensor, eq: Attr[str]) -> Tensor:
    return op.Einsum(x, equation=eq)


def _two(x: Tensor, y: Tensor, eq: Attr[str]) -> Tensor:
    return op.Einsum(x, y, equation=eq)


@dataclass(frozen=True)
class _Side:
    """An operand with a label for each axis."""

    value: Tensor
    labels: str

    def ordered(self, labels: str) -> _Side:
        """The same with its axes in another order."""
        if labels == self.labels:
            return self
        return _Side(op.Transpose(self.value, perm=[self.labels.index(c) for c in labels]), labels)


@rule(_one, accuracy="close", bounded=True, shapes={"x": "B N 3"}, attrs={"eq": "abc->acb"})
def einsum_of_one(x: Tensor, eq: str) -> Tensor:
    """An Einsum of one operand is a Transpose, or a sum over the axes that the result does not have."""
    (labels,), result = _parse(eq, [x.rank])
    require(set(result) <= set(labels), "the result has another axis")
    left = "".join(c for c in labels if c in result)
    if left == labels:
        return x if left == result else _Side(x, labels).ordered(result).value
    require(left == result, "it takes two operators")
    return _summed(x, labels, result)


@rule(_two, accuracy="close", bounded=True, shapes={"x": "B N K", "y": "B K M"}, attrs={"eq": "bik,bkj->bij"})
def einsum_of_two(x: Tensor, y: Tensor, eq: str) -> Tensor:
    """An Einsum of two operands is a product: elementwise, or of matrices."""
    (a, b), result = _parse(eq, [x.rank, y.rank])
    require(set(a) | set(b) >= set(result), "the result has another axis")
    shared = set(a) & set(b)
    require(all(c in result or c in shared for c in a + b), "an axis of one operand is summed up")
    one, two = _Side(x, a), _Side(y, b)
    summed = [c for c in a if c in shared and c not in result]
    if not summed:
        return _elementwise(one, two, result)
    require(len(summed) == 1, "it sums over several axes")
    (k,) = summed
    require(_same_size(one, two, k), "a size of 1 may be repeated, which MatMul does not")
    # The product transposed is that of the operands transposed, the other way round.
    plans = [p for p in (_plan(one, two, k, result), _plan(two, one, k, result)) if p is not None]
    require(plans, "it is no product of matrices")
    _, left, right, made = min(plans, key=lambda p: p[0])
    first, second = (one, two) if set(left) == set(one.labels) else (two, one)
    if set(left) == set(one.labels) == set(two.labels):
        first, second = one, two
    product = op.MatMul(first.ordered(left).value, second.ordered(right).value)
    return _Side(product, made).ordered(result).value


_Plan = tuple[int, str, str, str]


def _plan(one: _Side, two: _Side, k: str, result: str) -> _Plan | None:
    """How MatMul multiplies `one` with `two`: Transposes needed, the axes of both, and those of the product."""
    a, b = one.labels, two.labels
    batch = "".join(c for c in result if c in a and c in b)
    mine = "".join(c for c in a if c not in b)
    yours = "".join(c for c in b if c not in a)
    if not batch and len(b) <= 2:  # a matrix or vector is the same for all rows
        rows = "".join(c for c in result if c in mine)
        choices = [(rows + k, k + yours, rows + yours)]
    elif len(mine) == 1 and len(yours) == 1:
        choices = [(batch + mine + k, batch + k + yours, batch + mine + yours)]
    else:
        return None
    cost = [((left != a) + (right != b) + (made != result), left, right, made) for left, right, made in choices]
    best = min(cost, key=lambda c: c[0])
    return best if best[0] <= 2 else None


def _elementwise(one: _Side, two: _Side, result: str) -> Tensor:
    """A product without a sum: both operands in the order of the result, with axes of size 1 where they have none."""
    nodes = 0
    values = []
    for side in (one, two):
        wanted = "".join(c for c in result if c in side.labels)
        nodes += wanted != side.labels
        value = side.ordered(wanted).value
        missing = [i for i, c in enumerate(result) if c not in wanted]
        if missing and missing != list(range(len(missing))):
            nodes += 1
            value = op.Unsqueeze(value, missing)
        values.append(value)
    require(nodes <= 1, "it takes three operators")
    return values[0] * values[1]


def _summed(x: Tensor, labels: str, result: str) -> Tensor:
    axes = [i for i, c in enumerate(labels) if c not in result]
    return op.ReduceSum(x, axes, keepdims=0)


def _same_size(one: _Side, two: _Side, label: str) -> bool:
    a, b = one.value.shape[one.labels.index(label)], two.value.shape[two.labels.index(label)]
    return same_sizes((a,), (b,))


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The labels of the operands and of the result, "..." spelled out. Declines diagonals, and what is not clear."""
    text = equation.replace(" ", "")
    require(text.count("->") <= 1, "the equation is not well formed")
    given, arrow, result = text.partition("->")
    terms = given.split(",")
    require(len(terms) == len(ranks), "the equation is for another number of operands")
    dots = 0
    found = []
    for term, rank in zip(terms, ranks, strict=True):
        named = term.replace("...", "")
        extra = rank - len(named) if "..." in term else 0
        require(named.isalpha() or not named, "the equation is not well formed")
        require(named.islower() or not named, "capital letters are left alone")
        require(0 <= extra <= len(_DOTS) and len(named) + extra == rank, "the equation does not fit the ranks")
        require(len(set(named)) == len(named), "it takes a diagonal")
        dots = max(dots, extra)
        found.append(term.replace("...", _DOTS[len(_DOTS) - extra :]))
    if not arrow:
        named = given.replace("...", "").replace(",", "")
        result = ("..." if "..." in given else "") + "".join(sorted(c for c in set(named) if named.count(c) == 1))
    require(not dots or "..." in result, "the result does not have the axes of ...")
    result = result.replace("...", _DOTS[len(_DOTS) - dots :])
    require(result.isalpha() or not result, "the equation is not well formed")
    require(len(set(result)) == len(result), "the result has an axis twice")
    return found, result
