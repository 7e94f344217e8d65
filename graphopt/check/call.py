"""One operator in the making: what its plan asks for operands and attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.check.attributes import anything, default_of, possible_value
from graphopt.check.choose import Leaf, Number, Port, Rejected, Step
from graphopt.check.dtypes import BY_ATTRIBUTE
from graphopt.check.opsets import Schema, schema_at, version_of
from graphopt.check.sizes import Shape, Sizes
from graphopt.check.values import ANYTHING, Value, Want
from graphopt.rules.expr import ANY, AttrVar

if TYPE_CHECKING:
    from graphopt.check.emit import Emitter

_DECLARED = 0.65  # that a captured attribute has a value that the rule declares
_ABSENT = 0.15  # that a captured attribute is left out
_SPELLED = 0.7  # that an attribute which the pattern gives its default is written all the same
_ODD, _EXPLICIT = 0.3, 0.12  # that an attribute the pattern does not mention has another value, or its default


class Call:
    """One operator being written. `want`: the shape that its output is wished to have."""

    def __init__(self, emitter: Emitter, step: Step, want: Shape | None) -> None:
        self.emitter, self.step, self.want = emitter, step, want
        self.op = step.op
        self.version = version_of(step.domain, emitter.opset)
        self.schema: Schema | None = schema_at(step.domain, step.op, self.version)
        self.values: list[Value | None] = [None] * len(step.operands)
        self.attributes: dict[str, Any] = {}
        self.outputs = step.outputs
        self.rng = emitter.rng
        self._asked: set[str] = set()
        self._declined: set[str] = set()  # attributes for which no declared value was drawn

    @property
    def sizes(self) -> Sizes:
        return self.emitter.sizes

    # -- operands ------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        return len(self.step.operands)

    def has(self, index: int) -> bool:
        """Whether the operand is not left out."""
        return index < self.count and self.step.operands[index] is not None

    def is_open(self, index: int) -> bool:
        """Whether the operand is a leaf, or a single number, that has no shape yet."""
        operand = self.step.operands[index] if index < self.count else None
        if isinstance(operand, Number) and np.ndim(operand.content):
            return False
        return isinstance(operand, Leaf | Number) and self.emitter.known(operand) is None

    def is_number(self, index: int) -> bool:
        return self.has(index) and isinstance(self.step.operands[index], Number)

    def integers(self, index: int) -> list[int] | None:
        """The integers that the rule writes out for an operand, if it does."""
        operand = self.step.operands[index] if index < self.count else None
        if not isinstance(operand, Number) or np.asarray(operand.content).dtype.kind not in "iu":
            return None
        return [int(i) for i in np.ravel(operand.content)]

    def is_const(self, index: int) -> bool:
        operand = self.step.operands[index]
        return isinstance(operand, Number) or (isinstance(operand, Leaf) and operand.const)

    def rank_of(self, index: int) -> int | None:
        """The rank that an operand has, or will have by a hint of the rule; None if anything is possible."""
        operand = self.step.operands[index]
        known = self.emitter.known(operand)
        if known is not None:
            return len(known.shape)
        tokens = self.sizes.tokens(operand.label) if isinstance(operand, Leaf) else None
        return None if tokens is None else len(tokens)

    def put(self, index: int, want: Want = ANYTHING) -> Value:
        """The operand's value, made as wanted if it is not there yet."""
        operand = self.step.operands[index]
        assert operand is not None
        value = self.emitter.value(operand, want)
        self.values[index] = value
        return value

    def put_data(self, least: int = 0, axes: Sequence[int] | None = None) -> Shape:
        """The first operand, of at least so many axes and with the `axes` that something else names; its shape.

        Raises `Rejected` if it has fewer.
        """
        named = [*(axes or ()), *self._named_axes()]
        least = max([least, *(a + 1 if a >= 0 else -a for a in named)])
        wish = self.want if self.want is not None else self.sizes.shape()
        if len(wish) < least:
            wish = self.sizes.shape(max(least, self.rng.choice((1, 2, 3))))
        found = self.put(0, Want(shape=wish)).shape
        if len(found) < least:
            raise Rejected(f"{self.op} needs an operand with {least} axes")
        return found

    def _named_axes(self) -> list[int]:
        """The axes that attributes name whose value is known beforehand."""
        found: list[int] = []
        for name in ("axis", "axes"):
            given = self.foresee(name)
            found += given if isinstance(given, list | tuple) else [given] if isinstance(given, int) else []
        return found

    def leave_out(self, index: int) -> bool:
        """Leave an optional leaf out after all; whether that was possible."""
        operand = self.step.operands[index]
        possible = isinstance(operand, Leaf) and operand.optional and self.emitter.known(operand) is None
        if possible:
            self.step.operands[index] = None
        return possible

    # -- attributes ----------------------------------------------------------------------------------

    def attr(
        self, name: str, choose: Callable[[], Any], usual: float = 0.5, valid: Callable[[Any], bool] | None = None
    ) -> Any:
        """Settle an attribute; its effective value, None if it has none.

        `choose` makes a valid value; `usual`: how often it is asked where the pattern leaves the attribute open;
        `valid`: whether a value that the rule declares will do here.
        """
        self._asked.add(name)
        if self.schema is None or name not in self.schema.attributes:
            return None
        rng, step = self.emitter.attr_rng, self.step
        default, required = default_of(self.schema, name), self.schema.attributes[name].required
        given = step.attrs.get(name, ...)
        if isinstance(given, AttrVar):
            return self._captured(name, given.label, choose, default, valid)
        if given is not ... and given is not ANY:
            return self._write(name, given) if given != default or rng.random() < _SPELLED else given
        if required or given is ANY or step.more:
            return self._write(name, choose()) if required or rng.random() < usual else default
        chance = self.emitter.odd_rng.random()
        if self.emitter.strange and chance < _ODD:
            return self._write(name, choose())
        return self._write(name, default) if chance > 1 - _EXPLICIT and default is not None else default

    def _captured(
        self, name: str, label: str, choose: Callable[[], Any], default: Any, valid: Callable[[Any], bool] | None
    ) -> Any:
        assert self.schema is not None
        rng, key, known = self.emitter.attr_rng, self.step.captures[name], self.emitter.captured
        if key not in known:
            attribute, declared = self.schema.attributes[name], self.emitter.rule.attrs.get(label)
            follow = name not in self._declined and rng.random() < _DECLARED
            leave_out = rng.random() < _ABSENT
            value = possible_value(declared, attribute, rng) if declared is not None and follow else None
            if value is None or (valid is not None and not valid(value)):
                value = None if leave_out and not attribute.required else choose()
            known[key] = value
        return default if known[key] is None else self._write(name, known[key])

    def foresee(self, name: str) -> Any:
        """The value that an attribute will have, if that is known before the operands are."""
        given = self.step.attrs.get(name)
        if not isinstance(given, AttrVar):
            return None if given is ANY else given
        key, known = self.step.captures[name], self.emitter.captured
        declared = self.emitter.rule.attrs.get(given.label)
        if key not in known and declared is not None and self.schema is not None:
            if self.emitter.attr_rng.random() < _DECLARED:
                known[key] = possible_value(declared, self.schema.attributes[name], self.emitter.attr_rng)
            else:
                self._declined.add(name)
        return known.get(key)

    def settle(self, name: str, value: Any) -> None:
        """Give an attribute the value that something else has decided."""
        self._asked.add(name)
        self._write(name, value)

    def _write(self, name: str, value: Any) -> Any:
        if value is not None:
            self.attributes[name] = value
        return value

    def complete(self) -> None:
        """Make the operands and attributes that the plan did not ask for."""
        for index, operand in enumerate(self.step.operands):
            if operand is not None and self.values[index] is None:
                self.put(index)
        if self.schema is None:
            self._copy_literals()
            return
        named = BY_ATTRIBUTE.get(self.op)
        if named is not None and named not in self._asked and named in self.schema.attributes:
            self.settle(named, self.emitter.types[Port(self.step, 0)])
        for name, attribute in self.schema.attributes.items():
            if name not in self._asked:
                self.attr(name, lambda a=attribute: anything(self.op, a, self.emitter.attr_rng), usual=0.3)  # type: ignore[misc]

    def _copy_literals(self) -> None:
        """Attributes of an operator that ONNX does not define: those that the pattern writes or the rule declares."""
        for name, given in self.step.attrs.items():
            if isinstance(given, AttrVar):
                declared = self.emitter.rule.attrs.get(given.label)
                value = declared if declared is not None else self.emitter.captured.get(self.step.captures[name])
                self.emitter.captured[self.step.captures[name]] = self._write(name, value)
            elif given is not ANY:
                self._write(name, given)
