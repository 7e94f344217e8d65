"""Sizes that are not numbers yet: polynomials with integer coefficients over named symbols.

A symbol stands for one integer that is fixed during a run of the model. Equal polynomials are equal for
every value of their symbols, and nothing else is ever claimed to be equal. There are three kinds:

* sizes by name (`Dim.symbol("batch")`): all tensors of the model that name it have the same size there;
* sizes nobody named (`Dim.unknown("?image.0")`): each is equal to itself alone;
* integers that are no sizes, and may be negative (`Dim.unknown("?k.0", size=False)`).

A size is at least 0 and below 10⁹, and shape arithmetic on sizes does not overflow: both are taken as given.
Where numbers grow beyond int64 an operation raises `OverflowError` instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_MAX_TERMS = 64
_MAX_NAME = 2000
_PLAIN = re.compile(r"[?$\w][\w.:/$?]*\Z")


class _Symbol(NamedTuple):
    name: str
    size: bool
    kind: str = ""  # "": named in the model; "?": unnamed; anything else: the exact text of a quotient
    quotient: tuple[Any, int] | None = None  # of these terms by this number, rounded down


_Monomial = tuple[_Symbol, ...]
_Terms = tuple[tuple[_Monomial, int], ...]


class Dim:
    """A polynomial that is not a plain integer. Arithmetic returns an `int` where the symbols cancel."""

    __slots__ = ("_hash", "_terms")
    _terms: _Terms

    def __init__(self, terms: _Terms) -> None:
        self._terms = terms
        self._hash = hash(terms)

    @staticmethod
    def symbol(name: str) -> Dim:
        """The size that the model calls `name`."""
        return Dim((((_Symbol(name, True),), 1),))

    @staticmethod
    def derived(name: str, value: Dim, *parameters: int) -> Dim:
        """A size of which only this is known: that it is some function, `name`, of `value` and `parameters`."""
        text = f"{name}({', '.join(map(str, (value, *parameters)))})"
        exact = f"{name}:{value._terms!r}:{parameters}"
        if len(exact) > _MAX_NAME:
            raise OverflowError("a size with too long an expression")
        return Dim((((_Symbol(text, True, exact),), 1),))

    @staticmethod
    def unknown(name: str, *, size: bool = True) -> Dim:
        """An integer equal to nothing but itself; the caller sees to it that `name` is used once."""
        return Dim((((_Symbol(name, size, "?"),), 1),))

    def __add__(self, other: int | Dim) -> int | Dim:
        total = dict(self._terms)
        for monomial, factor in _terms(other):
            total[monomial] = total.get(monomial, 0) + factor
        return _make(total)

    __radd__ = __add__

    def __neg__(self) -> int | Dim:
        return _make({monomial: -factor for monomial, factor in self._terms})

    def __sub__(self, other: int | Dim) -> int | Dim:
        return self + (-other)

    def __rsub__(self, other: int | Dim) -> int | Dim:
        return (-self) + other

    def __mul__(self, other: int | Dim) -> int | Dim:
        theirs = _terms(other)
        if len(self._terms) * len(theirs) > _MAX_TERMS**2:
            raise OverflowError("a size with too many terms")
        total: dict[_Monomial, int] = {}
        for a, x in self._terms:
            for b, y in theirs:
                monomial = tuple(sorted(a + b))
                total[monomial] = total.get(monomial, 0) + x * y
        return _make(total)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> int | Dim:
        """The quotient rounded down, for a divisor above 0; a derived symbol for what does not divide."""
        if divisor < 1:
            raise ValueError(f"sizes are divided by numbers above 0, not by {divisor}")
        whole = _make({monomial: factor // divisor for monomial, factor in self._terms})
        rest = _make({monomial: factor % divisor for monomial, factor in self._terms})
        if isinstance(rest, int):
            return whole
        return _floor(rest, divisor) + whole

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self._hash == other._hash and self._terms == other._terms

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        return Dim, (self._terms,)

    @property
    def is_size(self) -> bool:
        """Whether every symbol in it is a size, that is, cannot be negative."""
        return all(symbol.size for monomial, _ in self._terms for symbol in monomial)

    def at_least(self, bound: int) -> bool:
        """Whether it is `bound` or more for all sizes that its symbols can have."""
        return at_least(self, bound)

    @property
    def is_symbol(self) -> bool:
        """Whether this is one symbol alone."""
        return len(self._terms) == 1 and self._terms[0][1] == 1 and len(self._terms[0][0]) == 1

    @property
    def terms(self) -> tuple[tuple[int, tuple[Dim, ...]], ...]:
        """The sum that this is: for each term its number, and the symbols it is multiplied by, none for the last."""
        return tuple((factor, tuple(Dim((((s,), 1),)) for s in monomial)) for monomial, factor in self._terms)

    @property
    def quotient(self) -> tuple[Dim, int] | None:
        """Of what, by which number, this one symbol is the quotient rounded down; None if it is none."""
        found = self._terms[0][0][0].quotient if self.is_symbol else None
        return None if found is None else (Dim(found[0]), found[1])

    @property
    def is_anonymous(self) -> bool:
        """Whether this is one unnamed symbol, which says no more than None but for being equal to itself."""
        return self.is_symbol and self._terms[0][0][0].kind == "?"

    def __str__(self) -> str:
        text = ""
        for monomial, factor in self._terms:
            factors = [str(abs(factor))] if abs(factor) != 1 or not monomial else []
            factors += [_quote(symbol) for symbol in monomial]
            sign = ("-" if factor < 0 else "") if not text else (" - " if factor < 0 else " + ")
            text += sign + "*".join(factors)
        return text

    def __repr__(self) -> str:
        return f"Dim({str(self)!r})"


Shape = tuple[int | Dim | None, ...]
"""One entry per axis; None where the size is unknown."""


def _floor(value: Dim, divisor: int) -> Dim:
    """The symbol for a quotient rounded down; that of a quotient is one quotient again."""
    *inner, last = value._terms
    constant = last[1] if not last[0] else 0
    inner = inner if constant else [last]
    if len(value._terms) == len(inner) + bool(constant) == 1 + bool(constant) and inner[0][1] == 1:
        monomial = inner[0][0]
        if len(monomial) == 1 and monomial[0].quotient is not None:
            terms, by = monomial[0].quotient
            found = (Dim(terms) + constant * by) // (by * divisor)
            assert isinstance(found, Dim), "a quotient is no number"
            return found
    name = f"floor({value}/{divisor})" if value.is_symbol else f"floor(({value})/{divisor})"
    exact = f"{divisor}:{value._terms!r}"
    if len(exact) > _MAX_NAME:
        raise OverflowError("a size with too long an expression")
    return Dim((((_Symbol(name, at_least(value, 0), exact, (value._terms, divisor)),), 1),))


def _quote(symbol: _Symbol) -> str:
    return symbol.name if symbol.kind not in ("", "?") or _PLAIN.match(symbol.name) else repr(symbol.name)


def _terms(value: int | Dim) -> _Terms:
    return value._terms if isinstance(value, Dim) else (((), int(value)),)


def _order(term: tuple[_Monomial, int]) -> tuple[int, _Monomial]:
    return -len(term[0]), term[0]


def _make(total: dict[_Monomial, int]) -> int | Dim:
    kept = [(monomial, factor) for monomial, factor in total.items() if factor]
    if not kept:
        return 0
    if len(kept) > _MAX_TERMS:
        raise OverflowError("a size with too many terms")
    for _, factor in kept:
        if not _INT64_MIN <= factor <= _INT64_MAX:
            raise OverflowError(f"{factor} does not fit into int64")
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Dim(tuple(sorted(kept, key=_order)))


def exact_quotient(value: int | Dim, divisor: int | Dim) -> int | Dim | None:
    """The polynomial `q` with `q * divisor == value`, or None if there is none."""
    if isinstance(divisor, int):
        if divisor == 0 or any(factor % divisor for _, factor in _terms(value)):
            return None
        return _make({monomial: factor // divisor for monomial, factor in _terms(value)})
    if value == 0:
        return 0
    lead, lead_factor = _lead(divisor)
    quotient: int | Dim = 0
    rest = value
    for _ in range(_MAX_TERMS):
        if rest == 0:
            return quotient
        monomial, factor = _lead(rest)
        left = _without(monomial, lead)
        if left is None or factor % lead_factor:
            return None
        term = _make({left: factor // lead_factor})
        quotient = quotient + term
        rest = rest - term * divisor
    return None


def _lead(value: int | Dim) -> tuple[_Monomial, int]:
    # Graded lexicographic, the larger symbol first: long division ends only under such an order.
    return max(_terms(value), key=lambda term: (len(term[0]), term[0][::-1]))


def _without(monomial: _Monomial, divisor: _Monomial) -> _Monomial | None:
    left = list(monomial)
    for symbol in divisor:
        if symbol not in left:
            return None
        left.remove(symbol)
    return tuple(left)


def at_least(value: int | Dim, bound: int) -> bool:
    """Whether `value >= bound` for all sizes that its symbols can have."""
    if isinstance(value, int):
        return value >= bound
    constant = 0
    for monomial, factor in value._terms:
        if not monomial:
            constant = factor
        elif factor < 0 or not all(symbol.size for symbol in monomial):
            return False
    return constant >= bound


def at_most(small: int | Dim, large: int | Dim) -> bool:
    """Whether `small <= large` for all sizes that their symbols can have."""
    return at_least(large - small, 0)


def product(factors: Iterable[int | Dim]) -> int | Dim:
    """The product, 1 for none. Raises `OverflowError` beyond int64."""
    result: int | Dim = 1
    for factor in factors:
        result = result * factor
    if isinstance(result, int) and result > _INT64_MAX:
        raise OverflowError(f"{result} does not fit into int64")
    return result


def known(shape: Shape | None) -> tuple[int | Dim, ...] | None:
    """The shape, if its rank and every entry are known."""
    if shape is None or None in shape:
        return None
    return shape  # type: ignore[return-value]


def static(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape, if every entry is a number."""
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return shape  # type: ignore[return-value]


def provably_equal(a: Shape | None, b: Shape | None) -> bool:
    """Whether two shapes are equal for every input of the model; unknown is equal to nothing."""
    return a is not None and b is not None and a == b and None not in a


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape of an elementwise operator with ONNX's multidirectional broadcasting.

    None where it is not determined. Raises `ValueError` if the shapes cannot go together.
    """
    rank = max(map(len, shapes), default=0)
    result: list[int | Dim | None] = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            result[i] = _broadcast(result[i], size)
    return tuple(result)


def _broadcast(a: int | Dim | None, b: int | Dim | None) -> int | Dim | None:
    if b == 1 or (a is not None and a == b):
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise ValueError(f"sizes {a} and {b} do not broadcast")
    # Only 1 goes together with another size: what cannot be 1 wins, since anything else would be an error.
    for size in (a, b):
        if isinstance(size, int) or (size is not None and at_least(size, 2)):
            return size
    return None
