"""What rule authors write with: operators, alternatives, products, operands in any number, conditions."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from graphopt.ir.draft import Decline
from graphopt.rules.expr import (
    Alt,
    AttrVar,
    Literal,
    Many,
    NodeVar,
    Operand,
    OpExpr,
    Out,
    Several,
    Tensor,
    Var,
    lift,
)


class Operator(Protocol):
    """What `op.Relu` is: takes operands, then attributes by name; with `nout`, its outputs are to be unpacked."""

    def __call__(self, *inputs: Operand, nout: int = 1, **attrs: Any) -> Tensor: ...


class Domain:
    """The operators of a domain: `op.Relu(x)`; `Domain("com.microsoft").FastGelu(x)`.

    The last positional argument `...` accepts attributes that are not mentioned. `nout=3` asks for three
    outputs, to be unpacked.
    """

    def __init__(self, name: str = "") -> None:
        self.domain = name

    def __getattr__(self, name: str) -> Operator:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.any(name)

    def any(self, *names: str) -> Operator:
        """An operator that is any one of `names`."""

        if not names:
            raise TypeError("any() needs the names of operators: op.any(\"Relu\", \"Clip\")")

        def make(*inputs: Operand, nout: int = 1, **attrs: Any) -> Tensor:
            if nout < 1:
                raise ValueError(f"{names[0]}: nout is the number of outputs, and not {nout}")
            more = bool(inputs) and inputs[-1] is ...
            operands = tuple(lift(i) for i in (inputs[:-1] if more else inputs))
            if any(isinstance(i, Many) for i in operands[:-1]):
                raise TypeError(f"{names[0]}: many(…) stands for all further operands, so it must be the last one")
            node = OpExpr(self.domain, names, operands, attrs, more)
            node.outputs = nout
            return Out(node) if nout == 1 else Several(node)

        return make


op = Domain()


def many(*lists: Sequence[Any], each: Callable[..., Tensor] | None = None) -> Sequence[Tensor]:
    """In a pattern: all operands from here on, one or more. `op.Concat(*many(xs), axis=a)` binds a list to `xs`.

    `each` says what every operand looks like, as a function of as many variables as there are lists:
    `op.Concat(*many(xs, each=op.Relu), axis=a)`, or `*many(xs, scales, each=lambda x, s: x * s)`. Other variables
    of the pattern may be used in it; they stand for one value, the same for all operands.
    """
    for given in lists:
        if not isinstance(given, Var | AttrVar | NodeVar):
            raise TypeError(f"many() takes parameters of the pattern, not {given!r}")
    if not lists:
        raise TypeError("many() needs a parameter of the pattern, which binds the list of operands")
    variables = [_element(v) for v in lists]
    if each is None and len(lists) > 1:
        raise TypeError("many() of more than one list needs each=…, which says how an operand is made of them")
    if each is not None and not _takes(each, len(lists)):
        raise TypeError(f"many(each=…) must be a function of {len(lists)} variables, one for each list")
    element = variables[0] if each is None else each(*variables)
    if not isinstance(element, Tensor) or isinstance(element, Several):
        raise TypeError("many(each=…) must return one tensor expression")
    made: Any = Many([v.label for v in variables], element, variables)
    return [made]


def _element(listed: Any) -> Any:
    """A variable for one element of a list."""
    if isinstance(listed, Var):
        return Var(listed.label, const=listed.const, optional=listed.optional)
    return AttrVar(listed.label, listed.kind, listed.listed) if isinstance(listed, AttrVar) else NodeVar(listed.label)


def _takes(function: Callable[..., Tensor], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def approx(value: float, *, rtol: float) -> Tensor:
    """In a pattern: a constant splat within a relative tolerance of `value`, or what its dtype rounds that to."""
    if not isinstance(value, int | float) or not rtol >= 0:
        raise TypeError(f"approx() takes a number and a tolerance, such as rtol=1e-3, not {value!r} and {rtol!r}")
    return Literal(value, rtol)


def scaled(x: Tensor, factor: float) -> Tensor:
    """`x * factor`, also when it is written as a division by the inverse."""
    return x * factor | x / (1 / factor)


def product(*factors: Operand) -> Tensor:
    """A product of the factors, however it is associated."""
    _check_some(factors, "product")
    return _associations(op.Mul, [lift(f) for f in factors])


def total(*terms: Operand) -> Tensor:
    """A sum of the terms, however it is associated."""
    _check_some(terms, "total")
    return _associations(op.Add, [lift(t) for t in terms])


_MOST_OPERANDS = 6  # of n operands there are (2n - 3)!! associations: 945 of six, 10395 of seven


def _check_some(operands: Sequence[Operand], name: str) -> None:
    if not operands:
        raise TypeError(f"{name}() needs operands")
    if len(operands) > _MOST_OPERANDS:
        what = f"{name}() of {len(operands)} operands has too many associations"
        raise TypeError(f"{what}: write a part of it as it is associated")


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
