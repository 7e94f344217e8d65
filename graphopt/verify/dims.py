"""Concrete sizes for dynamic dimensions: small, and the same wherever a name appears.

Which sizes a model accepts cannot be read off it, so there are several plans, tried in order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.runtime.package import Port

__all__ = ["PLANS", "Plan", "concrete", "elements", "image_axes", "is_state"]

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Plan:
    """Sizes by meaning: of a batch, of sequences, of an image's sides; and the rank where none is declared.

    `cautious`: integers are all zero, for models whose ranges cannot be guessed.
    """

    batch: int = 2
    length: int = 8
    image: int = 64
    rank: int = 2
    cautious: bool = False


PLANS: tuple[Plan, ...] = (
    Plan(),
    Plan(batch=1),
    Plan(batch=1, length=16, image=224, rank=1),
    Plan(batch=1, length=32, image=256, rank=4),
    Plan(batch=1, length=64, image=128, rank=3),
    Plan(batch=1, length=128, image=320, rank=0),
    Plan(batch=1, length=512, image=512),
    Plan(batch=1, length=1024, image=640),
    Plan(batch=16, length=4000, image=720),
    Plan(batch=1, length=16000, image=28),
    Plan(batch=1, length=1, image=32),
    Plan(cautious=True),
    Plan(batch=1, cautious=True),
    Plan(batch=1, length=1, image=224, rank=1, cautious=True),
)

_BATCH = re.compile(r"batch|^(n|b|bs|nb)$|^unk__|num_(samples|images)", re.IGNORECASE)
_LENGTH = re.compile(r"seq|len|time|token|frame|step|word|char|^(t|s|l)$", re.IGNORECASE)
_SIDE = re.compile(r"height|width|^(h|w)$|image_(size|side)", re.IGNORECASE)
_STATE = re.compile(r"state|hidden|cache|past|(^|_)[hc](_?\d+|n|x|_in)?$", re.IGNORECASE)


def is_state(name: str) -> bool:
    """Whether an input of this name carries the state of a recurrent model or a cache."""
    return _STATE.search(name) is not None


def image_axes(shape: Shape) -> tuple[int, int, int] | None:
    """(channel, height, width) axes if the shape can be that of images: rank 4 with 1, 3 or 4 channels."""
    if len(shape) != 4:
        return None
    if shape[1] in (1, 3, 4) and not all(isinstance(side, int) and side < 8 for side in shape[2:]):
        return 1, 2, 3
    return (3, 1, 2) if shape[3] in (1, 3, 4) else None


def concrete(ports: tuple[Port, ...], plan: Plan) -> dict[str, tuple[int, ...]]:
    """A shape of plain numbers for each input; declared numbers, 0 included, stay as they are."""
    sizes: dict[str, int] = {}
    for port in ports:
        for dim, guess in _guesses(port, plan):
            if isinstance(dim, str) and "+" not in dim and not _is_loose(port, dim):
                sizes.setdefault(dim, guess)
    return {
        port.name: tuple(
            guess if isinstance(dim, str) and _is_loose(port, dim) else _resolve(dim, sizes, guess)
            for dim, guess in _guesses(port, plan)
        )
        for port in ports
    }


def elements(ports: tuple[Port, ...], plan: Plan) -> int:
    """How many elements all inputs have together under `plan`."""
    return sum(math.prod(shape) for shape in concrete(ports, plan).values())


def _guesses(port: Port, plan: Plan) -> Iterator[tuple[int | str | None, int]]:
    """Each declared dimension, and the size it would have by its meaning."""
    shape: Shape = port.shape if port.shape is not None else (None,) * plan.rank
    sides = image_axes(shape)
    state = is_state(port.name)
    for axis, dim in enumerate(shape):
        is_side = sides is not None and axis in sides[1:]
        yield dim, _guess(dim if isinstance(dim, str) else "", axis, is_side, state, plan)


def _guess(name: str, axis: int, side: bool, state: bool, plan: Plan) -> int:
    if "past" in name.lower():
        return plan.length
    if "total" in name.lower():
        return 2 * plan.length  # what is past and what is new
    if side or _SIDE.search(name):
        return plan.image
    if _BATCH.search(name):
        return plan.batch
    if _LENGTH.search(name):
        return plan.length
    if state and axis <= 1:
        return plan.batch  # [layers, batch, size], or the batch first
    return plan.length if axis > 0 else plan.batch


def _is_loose(port: Port, dim: str) -> bool:
    """Whether one name stands for several sizes: for the batch and for a side of the images ("None", "?")."""
    shape = port.shape or ()
    sides = image_axes(shape)
    return sides is not None and shape[0] == dim and any(shape[side] == dim for side in sides[1:])


def _resolve(dim: int | str | None, sizes: dict[str, int], otherwise: int) -> int:
    if isinstance(dim, int):
        return dim
    if dim is None:
        return otherwise
    if dim in sizes:
        return sizes[dim]
    parts = [part.strip() for part in dim.split("+")]  # exporters write "past_sequence_length + 1"
    return sum(int(part) if part.isdigit() else sizes.get(part, otherwise) for part in parts)
