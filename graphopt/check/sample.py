"""Samples of a rule: small valid models that contain what one of its left sides looks like.

Every choice that a model may make is made at random: which branch of an alternative, in which order operands
stand, dtypes, shapes, attributes, contents, where values come from and who else reads them. Most samples can be
rewritten; some must not be, and show whether the rule and the engine notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import onnx

from graphopt.check.assemble import assemble
from graphopt.check.choose import Rejected, choose
from graphopt.check.contents import Array, Numbers
from graphopt.check.dtypes import assign, takes
from graphopt.check.emit import Emitter, Streams
from graphopt.check.opsets import version_of
from graphopt.check.placement import Places
from graphopt.rules.rule import Rule

__all__ = ["Rejected", "Sample", "SampleOptions", "draw", "instantiate"]

_TRIES = 8
_LOOP_ALONE = 11  # first opset at which a Loop needs no value that it carries on
_DYNAMIC, _SPECIAL, _BODY = 0.3, 0.4, 0.08  # shares of samples


@dataclass(frozen=True)
class SampleOptions:
    """What samples may have; each feature left out leaves the rest of a sample as it was.

    `plain` leaves out all of them. `dynamic`: symbolic sizes. `special`: infinities, NaN, extreme integers.
    `interior`: neighbours of the pattern in the graph, other readers, bodies. `variety`: constants that are nodes,
    shapes beside the hints, attributes beside their defaults, numbers that are nearly right. `opset`, `dtype`
    (number of a `TensorProto.DataType`) and `pattern` (index of a left side) fix what is drawn otherwise.
    """

    plain: bool = False
    dynamic: bool = True
    special: bool = True
    interior: bool = True
    variety: bool = True
    opset: int | None = None
    dtype: int | None = None
    pattern: int | None = None

    def settled(self) -> SampleOptions:
        """The same, with `plain` spelled out."""
        return replace(self, dynamic=False, special=False, interior=False, variety=False) if self.plain else self


@dataclass(frozen=True)
class Sample:
    """A model with inputs for it. `traits` says in words what was drawn; `seed` makes it again: see `instantiate`."""

    model: onnx.ModelProto
    feeds: Mapping[str, Array]
    traits: Mapping[str, str]
    pattern: int
    seed: int
    rejected: tuple[str, ...] = field(default=())


def draw(rule: Rule[Any], rng: Random, *, options: SampleOptions | None = None) -> Sample:
    """A random sample of a rule. Raises `Rejected` with the last reason if several draws in a row are not valid."""
    reasons: list[str] = []
    for _ in range(_TRIES):
        try:
            sample = instantiate(rule, rng.getrandbits(48), options=options)
        except Rejected as rejected:
            reasons.append(rejected.reason)
        else:
            return replace(sample, rejected=tuple(reasons))
    raise Rejected(reasons[-1])


def instantiate(rule: Rule[Any], seed: int, *, options: SampleOptions | None = None) -> Sample:
    """The sample of a rule with this seed. Raises `Rejected` if it is no valid model."""
    settled = (options or SampleOptions()).settled()
    return _Drawing(rule, seed, settled).sample()


class _Drawing:
    """One sample in the making."""

    def __init__(self, rule: Rule[Any], seed: int, options: SampleOptions) -> None:
        self._rule, self._seed, self._options = rule, seed, options
        source = Random(seed)

        def stream() -> Random:
            return Random(source.getrandbits(64))

        self._structure, self._types, self._features, self._values, self._places = (stream() for _ in range(5))
        self._streams = Streams(stream(), stream(), stream())

    def sample(self) -> Sample:
        rule, options = self._rule, self._options
        index = self._structure.randrange(len(rule.patterns))
        index = index if options.pattern is None else options.pattern
        tree = choose(rule.patterns[index], self._structure, options.opset)
        types = assign(tree, self._types, rule.shapes, rule.attrs, options.dtype)
        dynamic, special, *body = (self._features.random() for _ in range(4))
        places = Places(
            self._places, tree.opset, dynamic=options.dynamic and dynamic < _DYNAMIC, interior=options.interior,
            variety=options.variety, single=sum(not leaf.const for leaf in tree.leaves) == 1,
        )  # fmt: skip
        numbers = Numbers(self._values, options.special and special < _SPECIAL)
        emitter = Emitter(rule, tree, types, self._streams, numbers, places, vary=options.variety)
        results = [emitter.value(port) for port in tree.outputs]
        places.finish(results, emitter.interior(tree), emitter.extra)
        imports = {"": tree.opset} | {s.domain: version_of(s.domain, tree.opset) for s in tree.steps}
        around = self._body(body[0], tree.opset, places)
        model = assemble(places, emitter.nodes, imports, around, own=body[1] < 0.5)
        traits = {
            "left side": f"{index + 1} of {len(rule.patterns)}",
            **tree.traits,
            "dtypes": " ".join(sorted({onnx.TensorProto.DataType.Name(d).lower() for d in types.values()})),
            "opset": str(tree.opset),
            "axes": f"{emitter.sizes.style}, {'symbolic' if places.dynamic else 'fixed'}",
            "special values": "some" if numbers.special else "none",
            "placement": ", ".join(places.notes + [f"in a body of {around}"] * bool(around)) or "at the boundary",
        }
        return Sample(model, places.feeds, traits, index, self._seed)

    def _body(self, chance: float, opset: int, places: Places) -> str:
        """The operator in whose body the pattern stands, "" if in none."""
        if not self._options.interior or chance > _BODY:
            return ""
        op = "Loop" if chance < _BODY / 2 and opset >= _LOOP_ALONE else "If"
        return op if all(takes(op, opset, value.dtype) for value in places.outputs) else ""
