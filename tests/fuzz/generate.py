"""A random model with inputs for it, from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.check.finding import Example
from graphopt.rules.rule import Rule
from tests.fuzz import chains, control, exotic, movement, neural, pointwise
from tests.fuzz.builder import Builder, Reject, Runs
from tests.fuzz.fragments import fragment
from tests.fuzz.values import BOOL, FLOATS, INTEGERS, STRING, Array, Val, numbers

_IR_VERSION = 10
_PLAIN: dict[Callable[[Builder], None], int] = {
    **pointwise.GENERATORS, **movement.GENERATORS, **neural.GENERATORS, **chains.GENERATORS, **exotic.GENERATORS,
}  # fmt: skip
_WITH_RULES = 30  # weight of fragments, against that of all plain generators together
_NODES = 30


class Generator:
    """Makes models. `rules`: whose patterns are built in; `runs`: which nodes ONNX Runtime has kernels for."""

    def __init__(self, rules: Sequence[Rule[Any]], runs: Runs) -> None:
        self._rules = rules
        self._runs = runs
        self._steps: dict[Callable[[Builder], None], int] = dict(_PLAIN)
        self._steps |= {self._bodied(make): weight for make, weight in control.GENERATORS.items()}
        self._steps[self._fragment] = _WITH_RULES

    def example(self, seed: str) -> Example | None:
        """The model with this seed; None if nothing valid came of it."""
        b = Builder(Random(seed), self._runs)
        for _ in range(b.rng.choice((1, 2, 2, 3))):
            b.input()
        target = b.rng.choice((3, 6, 10, 16, 24))
        for _ in range(3 * target):
            self._step(b)
            if len(b.nodes[0]) >= target:
                break
        if not b.nodes[0] or len(b.nodes[0]) > _NODES * 2:
            return None
        model = _finished(b)
        return None if model is None else Example(model, b.feeds)

    def variants(self, example: Example, seed: str) -> Iterator[dict[str, Array]]:
        """Other inputs for the same model: special numbers, other sizes, other contents of what has a default."""
        rng = Random(f"{seed}:inputs")
        model = example.model
        sizes: dict[str, int] = {}
        for value in model.graph.input:
            if value.name in example.feeds:
                dims = value.type.tensor_type.shape.dim
                sizes |= {d.dim_param: s for d, s in zip(dims, example.feeds[value.name].shape, strict=True) if d.dim_param}
        yield _redrawn(example, rng, {}, special=True)
        if sizes:
            yield _redrawn(example, rng, {name: rng.choice((0, 1, 1, 2, 3, 5)) for name in sizes}, special=False)

    def _step(self, b: Builder) -> None:
        make = b.rng.choices(list(self._steps), list(self._steps.values()))[0]
        try:
            make(b)
        except (Reject, ValueError, IndexError, TypeError):
            pass  # no value fits, or a choice among none

    def _bodied(self, make: Callable[[Builder, Callable[[Builder], None]], None]) -> Callable[[Builder], None]:
        return lambda b: make(b, self._inner)

    def _inner(self, b: Builder) -> None:
        self._step(b)

    def _fragment(self, b: Builder) -> None:
        fragment(b, self._rules)


def _redrawn(example: Example, rng: Random, sizes: dict[str, int], special: bool) -> dict[str, Array]:
    """The inputs anew. Integers keep their numbers where they keep their shape: they may be divisors and indices."""
    feeds: dict[str, Array] = {}
    defaults = {t.name: t for t in example.model.graph.initializer}
    for value in example.model.graph.input:
        dtype = value.type.tensor_type.elem_type
        if value.name in defaults:
            tensor = defaults[value.name]
            if dtype in FLOATS and rng.random() < 0.7:
                feeds[value.name] = numbers(rng, tuple(tensor.dims), dtype)
            elif dtype == BOOL:
                feeds[value.name] = np.asarray(~numpy_helper.to_array(tensor))
            continue
        old = example.feeds[value.name]
        dims = [sizes.get(d.dim_param, s) for d, s in zip(value.type.tensor_type.shape.dim, old.shape, strict=True)]
        keep = dtype in INTEGERS or dtype == STRING
        if keep:
            feeds[value.name] = np.resize(old, dims) if old.size else np.ones(dims, old.dtype)
        else:
            feeds[value.name] = np.asarray(numbers(rng, dims, dtype, special))
    return feeds


def _finished(b: Builder) -> onnx.ModelProto | None:
    """The model with outputs: what nobody reads, and some of what is read."""
    rng = b.rng
    made = {name for node in b.nodes[0] for name in node.output}
    tensors = list({v.name: v for v in b.scopes[0] if v.name in made}.values())
    if not tensors:
        return None
    read = {name for node in b.nodes[0] for name in _reads(node)}
    outputs = [v for v in tensors if v.name not in read and rng.random() < 0.85]
    outputs += [rng.choice(tensors) for _ in range(rng.choice((0, 0, 1, 1, 2)))] or [tensors[-1]]
    if rng.random() < 0.04:
        outputs.append(rng.choice(b.scopes[0]))
    outputs = list({v.name: v for v in outputs}.values())
    rng.shuffle(outputs)
    outputs = [v if v.shape is not None else _flat(b, v) for v in outputs]
    imports = [helper.make_opsetid(domain, version) for domain, version in b.imports.items()]
    static = all(d.HasField("dim_value") for i in b.inputs for d in i.type.tensor_type.shape.dim)
    given = {i.name: i for i in b.inputs}
    infos = [given[v.name] if v.name in given else _declared(v, static, rng) for v in outputs]
    graph = helper.make_graph(b.nodes[0], "fuzz", b.inputs, infos, b.initializers)
    model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, functions=b.functions)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return None
    return model


def _flat(b: Builder, value: Val) -> Val:
    """The value along one axis: an output needs a rank."""
    name = b.name()
    b.raw(helper.make_node("Reshape", [value.name, b.ints(-1).name], [name]), [])
    return Val(name, value.dtype, (-1,))


def _declared(value: Val, static: bool, rng: Random) -> onnx.ValueInfoProto:
    """The type of an output: its sizes as they are, of symbols, or left open."""
    chance = rng.random()
    if value.const or (static and chance < 0.7 and -1 not in value.dims):
        return helper.make_tensor_value_info(value.name, value.dtype, value.shape)
    dims = [None if chance > 0.9 else f"{value.name}_{i}" for i in range(value.rank)]
    return helper.make_tensor_value_info(value.name, value.dtype, dims)


def _reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found |= {name for inner in attribute.g.node for name in _reads(inner)}
            found |= {o.name for o in attribute.g.output}
    return found
