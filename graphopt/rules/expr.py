"""Expressions: what patterns and replacements are made of.

`op.Add(x, 1)` and `x + 1` make an expression and do nothing else. A pattern's expression is compiled
to a matcher; a replacement's is lowered to nodes, its constant parts computed on the way.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol, TypeVar, cast, overload

from graphopt.ir.edit import Decline

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
        return Alt((*_options(self), *_options(lift(other))))

    def __ror__(self, other: Operand) -> Tensor:
        return Alt((*_options(lift(other)), *_options(self)))

    def __bool__(self) -> NoReturn:
        raise TypeError("a tensor has no truth value: a pattern is traced once; write alternatives with |")


class Const(Tensor):
    """In a signature: a tensor whose content is fixed, and not a graph input that a caller may override."""


class Var(Const):
    """A parameter of a pattern that captures a tensor."""

    def __init__(self, name: str, *, const: bool, optional: bool) -> None:
        self.label, self.const, self.optional = name, const, optional

    def __repr__(self) -> str:
        return self.label


class AttrVar:
    """A parameter of a pattern that captures an attribute."""

    def __init__(self, name: str) -> None:
        self.label = name

    def __repr__(self) -> str:
        return self.label


class NodeVar:
    """A parameter of a pattern that captures the node of an inner expression: `conv.bind(op.Conv(…))`."""

    def __init__(self, name: str) -> None:
        self.label = name
        self.bound = False

    def bind(self, expression: T) -> T:
        outs: tuple[Tensor, ...] = expression if isinstance(expression, tuple) else (cast(Tensor, expression),)
        for out in outs:
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
    constant's dtype, bit for bit; with `rtol`, within that relative tolerance.
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
    """One operator applied to expressions; `ops` has several names for a class of operators."""

    def __init__(
        self, domain: str, ops: tuple[str, ...], inputs: tuple[Tensor | None, ...], attrs: dict[str, Any], more: bool
    ) -> None:
        self.domain, self.ops, self.inputs, self.attrs, self.more = domain, ops, inputs, attrs, more
        self.outputs = 1
        self.capture: str | None = None


class Out(Const):
    """One output of an operator expression."""

    def __init__(self, node: OpExpr, index: int = 0) -> None:
        self.node, self.index = node, index


class Any_:  # noqa: N801 - its one instance is ANY
    """An attribute value that accepts everything."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Any = Any_()

_One = typing.Literal[1]  # `Literal` itself is a class of this module


class Operator(Protocol):
    """What `op.Relu` is: takes operands, then attributes by name; `nout` outputs make a tuple."""

    @overload
    def __call__(self, *inputs: Operand, nout: _One = 1, **attrs: Any) -> Tensor: ...
    @overload
    def __call__(self, *inputs: Operand, nout: int, **attrs: Any) -> tuple[Tensor, ...]: ...


class Domain:
    """The operators of a domain: `op.Relu(x)`; `Domain("com.microsoft").FastGelu(x)`.

    The last positional argument `...` accepts attributes that are not mentioned. `nout=3` makes a
    tuple of three outputs.
    """

    def __init__(self, name: str = "") -> None:
        self._domain = name

    def __getattr__(self, name: str) -> Operator:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.any(name)

    def any(self, *names: str) -> Operator:
        """An operator that is any one of `names`."""

        def make(*inputs: Operand, nout: int = 1, **attrs: Any) -> Any:
            more = bool(inputs) and inputs[-1] is ...
            operands = tuple(lift(i) for i in (inputs[:-1] if more else inputs))
            node = OpExpr(self._domain, names, operands, attrs, more)
            node.outputs = nout
            return Out(node) if nout == 1 else tuple(Out(node, i) for i in range(nout))

        return make


op = Domain()


def lift(x: Operand) -> Any:
    """`x` as an expression: tensors and None stay, anything else becomes a literal."""
    return x if x is None or isinstance(x, Tensor) else Literal(x)


def _call(name: str, *operands: Operand) -> Tensor:
    return Out(OpExpr("", (name,), tuple(lift(x) for x in operands), {}, more=False))


def _options(x: Any) -> tuple[Any, ...]:
    return x.options if isinstance(x, Alt) else (x,)


def approx(value: float, *, rtol: float) -> Tensor:
    """In a pattern: a constant splat within a relative tolerance of `value`."""
    return Literal(value, rtol)


def scaled(x: Tensor, factor: float) -> Tensor:
    """`x * factor`, also when it is written as a division by the inverse."""
    return x * factor | x / (1 / factor)


def product(*factors: Operand) -> Tensor:
    """A product of the factors, however it is associated."""
    return _associations(op.Mul, [lift(f) for f in factors])


def total(*terms: Operand) -> Tensor:
    """A sum of the terms, however it is associated."""
    return _associations(op.Add, [lift(t) for t in terms])


def _associations(apply: Callable[..., Tensor], operands: list[Tensor]) -> Tensor:
    """All unordered binary trees over the operands; the matcher tries both orders at each node."""
    if len(operands) == 1:
        return operands[0]
    first, *others = operands
    trees: list[Tensor] = []
    for size in range(len(others)):
        for chosen in itertools.combinations(range(len(others)), size):
            left = [first, *(others[i] for i in chosen)]
            right = [x for i, x in enumerate(others) if i not in chosen]
            trees.append(apply(_associations(apply, left), _associations(apply, right)))
    return trees[0] if len(trees) == 1 else Alt(trees)


def require(condition: object, reason: str) -> None:
    """In a replacement: decline the rewrite, with this reason, unless the condition holds."""
    if not condition:
        raise Decline(reason)
