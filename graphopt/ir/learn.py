"""Inferring a node again: what that adds to what is known, and which sizes without a name turn out to be others."""

from __future__ import annotations

import onnx_ir as oir

from graphopt.ir import control
from graphopt.ir.dims import Dim, Shape, product
from graphopt.ir.facts import Facts
from graphopt.ir.native import Fact
from graphopt.ir.schemas import Inconsistent

Size = int | Dim | None


class Learner:
    """Takes over what more is known of values by now.

    A size without a name that turns out to be another one is called like that one from then on, wherever the nodes
    that are inferred again hand it on: equal sizes can be told only if they are called alike.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._sizes: dict[Dim, int | Dim] = {}
        self.gained = False  # whether the last inference told more than other names for sizes

    def equate(self, old: Fact, new: Fact, maker: oir.Node | None) -> None:
        """Take note of the sizes in `old` that are now called as in `new`.

        `maker`: the node that computed what had the type `old`. Sizes that it did not invent, others have too, which
        nobody may look at again.
        """
        if old.shape is not None and new.shape is not None and len(old.shape) == len(new.shape):
            handed_on = set() if maker is None else self._given(maker)
            for a, b in zip(old.shape, new.shape, strict=True):
                if a != b and a not in handed_on:
                    self._solve(a, b)

    def infer(self, node: oir.Node, graph: oir.Graph | None = None) -> bool:
        """Infer a node again; whether more is known of one of its outputs. `graph`: where it will be, if not yet."""
        facts = self._facts
        for value in node.outputs:
            facts.symbolic(value)  # so that it can be told whether they change
        try:
            found = facts.outputs(node, graph)
        except Inconsistent:
            return False
        learned = self.gained = False
        for value, fact in zip(node.outputs, found, strict=False):
            if self.learn(value, fact, node):
                learned = True
            elif facts.renew_elements(value, self._is_better):
                learned = self.gained = True
        return learned

    def learn(self, value: oir.Value, fact: Fact, node: oir.Node) -> bool:
        """Add to the type of a value what `fact`, which follows from what `node` reads, adds; whether it does."""
        old = self._facts.fact(value)
        renamed = self._renamed(old)
        gain = more(renamed, fact)
        self.gained |= gain is not None
        merged = gain or renamed
        if merged.shape is not None and fact.shape is not None and _rank(merged) == _rank(fact):
            merged = self._explained(merged, fact.shape, node)
        if merged == old:
            return False
        self._facts.set(value, merged)
        return True

    def _explained(self, old: Fact, shape: Shape, node: oir.Node) -> Fact:
        """The type with sizes of what the node reads in place of those that nobody else has."""
        assert old.shape is not None
        if all(a == b or b is None or not is_open(a) for a, b in zip(old.shape, shape, strict=True)):
            return old
        given = self._given(node)
        if all(_unnamed(a) <= given for a in old.shape):
            return old
        given |= self._given_elements(node)
        result: list[Size] = []
        for a, b in zip(old.shape, shape, strict=True):
            if a != b and b is not None and is_open(a) and _unnamed(b) <= given and not _unnamed(a) <= given:
                self._solve(a, b)
                result.append(b)
            else:
                result.append(a)
        return old._replace(shape=tuple(result))

    def _given(self, node: oir.Node) -> set[Dim]:
        """The sizes without a name in the types of what a node reads, and of what its bodies give."""
        values = [v for v in node.inputs if v is not None]
        values += [v for body in control.bodies(node) for v in body.outputs] if node.attributes else []
        return {symbol for v in values for size in self._facts.shape(v) or () for symbol in _unnamed(size)}

    def _given_elements(self, node: oir.Node) -> set[Dim]:
        """The sizes without a name that a node reads as numbers."""
        elements = [self._facts.symbolic(v) or () for v in node.inputs if v is not None]
        return {symbol for found in elements for size in found for symbol in _unnamed(size)}

    def _solve(self, a: Size, b: Size) -> None:
        """Take note that a size, if it is one symbol without a name, is another."""
        b = self._put(b)
        if isinstance(a, Dim) and a.is_anonymous and b is not None and a not in self._sizes and a not in _unnamed(b):
            self._sizes[a] = b

    def _renamed(self, fact: Fact) -> Fact:
        if not self._sizes or fact.shape is None:
            return fact
        return fact._replace(shape=tuple(map(self._put, fact.shape)))

    def _put(self, size: Size) -> Size:
        """A size in terms of what the sizes in it turned out to be."""
        while isinstance(size, Dim) and not self._sizes.keys().isdisjoint(_unnamed(size)):
            try:
                total: int | Dim = 0
                for factor, symbols in size.terms:
                    total = total + factor * product(map(self._replaced, symbols))
                size = total
            except OverflowError:
                break
        return size

    def _replaced(self, symbol: Dim) -> int | Dim:
        divided = symbol.quotient
        if divided is None or self._sizes.keys().isdisjoint(_unnamed(divided[0])):
            return self._sizes.get(symbol, symbol)
        dividend = self._put(divided[0])
        assert dividend is not None
        return dividend // divided[1]

    def _is_better(self, before: Shape | None, after: Shape | None) -> bool:
        if before is None or after is None:
            return after is not None
        stale = any(not self._sizes.keys().isdisjoint(_unnamed(n)) for n in before)
        return before != after and (stale or sum(map(is_open, after)) < sum(map(is_open, before)))


def more(old: Fact, new: Fact) -> Fact | None:
    """The type with what `new` adds to `old`; None if it adds nothing."""
    if new.dtype is None or (old.dtype is not None and old.dtype != new.dtype):
        return None
    if old.shape is None or new.shape is None:
        shape = old.shape if new.shape is None else new.shape
    elif len(old.shape) != len(new.shape):
        return None
    else:
        shape = tuple(b if is_open(a) and not is_open(b) else a for a, b in zip(old.shape, new.shape, strict=True))
    if old.dtype is not None and shape == old.shape:
        return None
    return old._replace(dtype=new.dtype, shape=shape)


def is_open(size: Size) -> bool:
    """Whether a size depends on one that has no name."""
    return size is None or (isinstance(size, Dim) and bool(_unnamed(size)))


def _unnamed(size: Size) -> set[Dim]:
    """The symbols without a name in a size."""
    found: set[Dim] = set()
    if isinstance(size, Dim):
        for symbol in (symbol for _, factors in size.terms for symbol in factors):
            divided = symbol.quotient
            if divided is not None:
                found |= _unnamed(divided[0])
            elif symbol.is_anonymous:
                found.add(symbol)
    return found


def _rank(fact: Fact) -> int | None:
    return None if fact.shape is None else len(fact.shape)
