"""Optimization profiles: the range of shapes that an engine takes at its inputs with dynamic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.errors import UsageError, nearest

if TYPE_CHECKING:
    import onnx_ir as oir

BATCH = (1, 8, 32)
LENGTH = (1, 128, 512)
# Multiples of 64, so that feature pyramids with strides up to 64 fit together at all three points.
IMAGE = (64, 256, 1024)

_LENGTH_NAMES = re.compile(r"seq|len|time|token|frame|step", re.IGNORECASE)
_BATCH_NAMES = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
_IMAGE_NAMES = re.compile(r"height|width|^(h|w)$", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """The smallest, the usual and the largest shape of one input (or its values, if it holds a shape)."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        fits = len(self.min) == len(self.opt) == len(self.max)
        if not fits or not all(0 <= a <= b <= c for a, b, c in zip(*self.triple, strict=True)):
            raise UsageError(
                f"the profile {self} does not grow from its smallest to its largest shape",
                hint="give three shapes of one rank: smallest:usual:largest: 1x3x64x64:8x3x64x64:32x3x64x64",
            )

    @property
    def triple(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return self.min, self.opt, self.max

    def __str__(self) -> str:
        return ":".join("x".join(map(str, shape)) for shape in self.triple)


def parse_profile(text: str) -> tuple[str, Range]:
    """Read `name=1x3x224x224:8x3x224x224:32x3x224x224`; one shape alone stands for all three."""
    name, _, shapes = text.rpartition("=")
    parts = shapes.split(":")
    if not name or len(parts) not in (1, 3) or not all(re.fullmatch(r"\d+(x\d+)*", p) for p in parts):
        raise UsageError(
            f"cannot read the profile {text!r}",
            hint="write name=smallest:usual:largest, such as input=1x3x224x224:8x3x224x224:32x3x224x224",
        )
    low, usual, high = (tuple(map(int, p.split("x"))) for p in (parts if len(parts) == 3 else parts * 3))
    return name, Range(low, usual, high)


def profile_for(graph: oir.Graph, given: Mapping[str, Range]) -> tuple[dict[str, Range], list[str]]:
    """A range for each input with dynamic dimensions, and a note for each that had to be assumed.

    What is not given follows from the dimension: a batch is 1, 8, 32; a length 1, 128, 512; the side of an
    image 64, 256, 1024. Raises `UsageError` where `given` does not fit the graph's inputs.
    """
    inputs = {v.name or "": v for v in graph.inputs if v.name not in graph.initializers}
    for name, chosen in given.items():
        if name not in inputs:
            raise UsageError(f"the profile names no input: {name!r}", hint=nearest(name, inputs))
        _check(name, inputs[name], chosen)
    profile, notes = dict(given), []
    for name, value in inputs.items():
        if name in given or value.shape is None or None not in _fixed(value.shape):
            continue
        profile[name] = _assumed(value)
        notes.append(f"assumed the profile {name}={profile[name]}")
    return profile, notes


def _check(name: str, value: oir.Value, chosen: Range) -> None:
    """Ranks agree and fixed dimensions stay fixed. Rank 1 is let through: it may hold a shape."""
    shape = value.shape
    if shape is None or len(shape) == 1:
        return
    fixed = _fixed(shape)
    for given in chosen.triple:
        if len(given) != len(fixed) or any(f not in (None, g) for f, g in zip(fixed, given, strict=True)):
            raise UsageError(
                f"the profile {chosen} does not fit the shape of the input {name!r}",
                hint=f"its shape is {'x'.join('?' if f is None else str(f) for f in fixed)}",
            )


def _fixed(shape: oir.Shape) -> list[int | None]:
    """Fixed dimensions, None for dynamic ones: some exporters write those as −1."""
    return [d if isinstance(d, int) and d >= 0 else None for d in shape]


def _assumed(value: oir.Value) -> Range:
    shape = value.shape
    assert shape is not None
    sizes = []
    for axis, fixed in enumerate(_fixed(shape)):
        symbol = "" if isinstance(shape[axis], int) else str(shape[axis])
        sizes.append(_sizes(symbol, axis, len(shape)) if fixed is None else (fixed, fixed, fixed))
    low, usual, high = (tuple(s[i] for s in sizes) for i in range(3))
    return Range(low, usual, high)


def _sizes(symbol: str, axis: int, rank: int) -> tuple[int, int, int]:
    """Sizes for one dynamic dimension: by its name, or where the name says nothing by its place."""
    for names, sizes in ((_LENGTH_NAMES, LENGTH), (_BATCH_NAMES, BATCH), (_IMAGE_NAMES, IMAGE)):
        if names.search(symbol):
            return sizes
    if axis == 0:
        return BATCH
    return IMAGE if rank == 4 and axis >= 2 else LENGTH
