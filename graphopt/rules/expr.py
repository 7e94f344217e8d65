"""Expressions: what patterns and replacements are made of.

`op.Add(x, 1)` and `x + 1` make an expression and do nothing else. A pattern's expression is compiled
to a matcher; a replacement's is lowered to nodes, its constant parts computed on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast

if TYPE_CHECKING:
    import numpy as np

    from graphopt.ir.dims import Dim
    from graphopt.ir.value import DType, Value

T = TypeVar("T")

Attr = Annotated[T, "graphopt.attr"]
"""In a pattern's signature, `eps: Attr[float]` is an attribute to capture; in a replacement, its value."""

Operand = Any  # a Tensor, a number, a list of integers, an array, or None for an input left out


class Tensor:
    """A tensor in a pattern or replacement. In a replacement it knows facts of the matched value."""

    __array_ufunc__ = None  # `array * x` is an expression, and not an array of expressions

    # -- facts: there for leaves of a replacement; see Leaf
    @property
    def name(self) -> str:
        return self._no_facts("name")

    @property
    def dtype(self) -> DType:
        return self._no_facts("dtype")

    @property
    def shape(self) -> tuple[int | Dim | None, ...]:
        return self._no_facts("shape")

    @property
    def rank(self) -> int:
        return self._no_facts("rank")

    @property
    def is_const(self) -> bool:
        return self._no_facts("is_const")

    @property
    def scalar(self) -> float:
        return self._no_facts("scalar")

    @property
    def ints(self) -> tuple[int, ...]:
        return self._no_facts("ints")

    @property
    def array(self) -> np.ndarray:
        return self._no_facts("array")

    @property
    def symbolic(self) -> tuple[int | Dim, ...]:
        return self._no_facts("symbolic")

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of all elements that are not NaN, as far as the operators that make them tell."""
        return self._no_facts("range")

    @property
    def uses(self) -> int:
        return self._no_facts("uses")

    @property
    def value(self) -> Value:
        return self._no_facts("value")

    def per_channel(self, axis: int, of: Tensor) -> bool:
        """Whether broadcasting this constant against `of` varies along `axis` of `of` only."""
        return self._no_facts("per_channel")

    def broadcasts_into(self, other: Tensor) -> bool:
        """Whether broadcasting this against `other` provably gives `other`'s shape."""
        return self._no_facts("broadcasts_into")

    def _no_facts(self, name: str) -> NoReturn:
        raise TypeError(f".{name} is a fact of a matched value: ask for it in the replacement, of a parameter")

    # -- operators
    def __add__(self, other: Operand) -> Tensor:
        return _call("Add", self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return _call("Add", other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return _call("Sub", self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return _call("Sub", other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return _call("Mul", self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return _call("Mul", other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return _call("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return _call("Div", other, self)

    def __pow__(self, other: Operand) -> Tensor:
        return _call("Pow", self, other)

    def __matmul__(self, other: Operand) -> Tensor:
        return _call("MatMul", self, other)

    def __neg__(self) -> Tensor:
        return _call("Neg", self)

    def __or__(self, other: Operand) -> Tensor:
        return Alt((*options_of(self), *options_of(_alternative(other))))

    def __ror__(self, other: Operand) -> Tensor:
        return Alt((*options_of(_alternative(other)), *options_of(self)))

    def __bool__(self) -> NoReturn:
        raise TypeError("a tensor has no truth value: a pattern is traced once; write alternatives with |")

    # -- several outputs
    def __iter__(self) -> Iterator[Tensor]:
        """The outputs of an operator that was asked for more than one: `a, b = op.Split(x, nout=2)`."""
        raise TypeError("this is one tensor, and nothing to unpack: ask an operator for several with nout=…")

    def __getitem__(self, index: int) -> Tensor:
        return tuple(self)[index]


class Const(Tensor):
    """In a signature: a tensor whose content is fixed, and not a graph input that a caller may override."""


class Var(Const):
    """A parameter of a pattern that captures a tensor."""

    def __init__(self, name: str, *, const: bool, optional: bool) -> None:
        self.label, self.const, self.optional = name, const, optional

    def __repr__(self) -> str:
        return self.label


class AttrVar:
    """A parameter of a pattern that captures an attribute.

    `kind`: its type as annotated, such as `list[int]`, if that is one type. `listed`: it is handed over as a list.
    """

    def __init__(self, name: str, kind: str | None = None, listed: bool = False) -> None:
        self.label, self.kind, self.listed = name, kind, listed

    def __repr__(self) -> str:
        return self.label


class NodeVar:
    """A parameter of a pattern that captures the node of an inner expression: `conv.bind(op.Conv(…))`."""

    def __init__(self, name: str) -> None:
        self.label = name
        self.bound = False

    def bind(self, expression: T) -> T:
        for out in outputs_of(cast(Tensor, expression)):
            if not isinstance(out, Out):
                raise TypeError(f"{self.label}.bind() takes one operator, such as {self.label}.bind(op.Conv(x, w))")
            out.node.capture = self.label
        self.bound = True
        return expression

    def __repr__(self) -> str:
        return self.label


class Literal(Tensor):
    """A number, a list of integers or an array written in a rule.

    In a pattern a number matches a constant all of whose elements equal it after rounding to the
    constant's dtype, bit for bit; with `rtol`, also within that relative tolerance.
    """

    def __init__(self, content: Any, rtol: float | None = None) -> None:
        self.content, self.rtol = content, rtol

    def __repr__(self) -> str:
        return repr(self.content) if self.rtol is None else f"approx({self.content!r}, rtol={self.rtol!r})"


class Alt(Tensor):
    """Alternatives, tried in order: `a | b`."""

    def __init__(self, options: Sequence[Tensor]) -> None:
        self.options = tuple(options)


class OpExpr:
    """One operator applied to expressions; `ops` has several names for a class of operators.

    `inputs` are tensors, None for one that is left out, and at the end perhaps a `Many`.
    """

    def __init__(
        self, domain: str, ops: tuple[str, ...], inputs: tuple[Any, ...], attrs: dict[str, Any], more: bool
    ) -> None:
        self.domain, self.ops, self.inputs, self.attrs, self.more = domain, ops, inputs, attrs, more
        self.outputs = 1
        self.capture: str | None = None


class Out(Const):
    """One output of an operator expression."""

    def __init__(self, node: OpExpr, index: int = 0) -> None:
        self.node, self.index = node, index


class Several(Tensor):
    """The outputs of an operator that was asked for more than one; to be unpacked, indexed or returned."""

    def __init__(self, node: OpExpr) -> None:
        self.outputs = tuple(Out(node, i) for i in range(node.outputs))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


class Many:
    """The last operands of an operator, one or more, each of which matches `element`; made by `many`.

    `labels` are the parameters that bind a list, one element of it for each operand; `variables` stand
    for them within `element`.
    """

    def __init__(self, labels: Sequence[str], element: Tensor, variables: Sequence[Var | AttrVar | NodeVar]) -> None:
        self.labels, self.element, self.variables = tuple(labels), element, tuple(variables)


class Any_:  # noqa: N801 - its one instance is ANY
    """An attribute value that accepts everything."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Any = Any_()


def lift(x: Operand) -> Any:
    """`x` as an operand: tensors and None stay, anything else becomes a literal."""
    if isinstance(x, Several):
        raise TypeError(f"the operand has {len(x)} outputs: unpack it, and say which of them is meant")
    return x if x is None or isinstance(x, Tensor | Many) else Literal(x)


def _alternative(x: Operand) -> Any:
    if x is None:
        raise TypeError("None is no alternative: an operand that may be left out is a parameter, `b: Const | None`")
    return lift(x)


def outputs_of(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a pattern or replacement returned, as a tuple of outputs."""
    if isinstance(x, Several):
        return tuple(x)
    return x if isinstance(x, tuple) else (x,)


def inputs_of(node: OpExpr) -> Iterator[Tensor]:
    """The operands that are there; of a `Many`, the expression for one of them."""
    for x in node.inputs:
        if x is not None:
            yield x.element if isinstance(x, Many) else x


def _call(name: str, *operands: Operand) -> Tensor:
    return Out(OpExpr("", (name,), tuple(lift(x) for x in operands), {}, more=False))


def options_of(x: Any) -> tuple[Any, ...]:
    """The alternatives that an expression stands for."""
    return x.options if isinstance(x, Alt) else (x,)
