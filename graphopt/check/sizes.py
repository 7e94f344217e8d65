"""Sizes of axes: from a rule's hints, or made up so that swapped axes show; and how operands broadcast.

A size knows the name under which it may become symbolic, so sizes that must agree get one name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

_USUAL = (2, 3, 4, 5, 6, 7)
_SPATIAL = (4, 5, 6, 7)  # of letters such as H and W beside a kernel: enough for it to slide over
_RANKS = (0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5)
_STYLES = {"distinct": 76, "some of 1": 12, "equal": 8, "some of 0": 4}
_MOST_AXES = 5


class Size(int):
    """The size of an axis, and its name."""

    name: str

    def __new__(cls, value: int, name: str) -> Size:
        made = super().__new__(cls, value)
        made.name = name
        return made


Shape = tuple[int, ...]


class Sizes:
    """The sizes of one sample. `style` says in words what they are like."""

    def __init__(self, rng: Random, hints: Mapping[str, str], vary: bool) -> None:
        self._rng = rng
        self._hints = hints
        drawn = rng.choices(list(_STYLES), list(_STYLES.values()))[0]
        self.style = drawn if vary else "distinct"
        self._letters: dict[str, Size] = {}
        self._names: dict[str, int] = {}
        self._used: list[int] = []
        self._base: Shape | None = None
        self._reserved = self._reserve()

    def fresh(self, name: str = "d", spatial: bool = False) -> Size:
        """A new size, different from the others unless the sample's style is another."""
        if self.style == "equal":
            return self.named(4, name)
        chance = self._rng.random() * (4 if spatial else 1)
        if self.style == "some of 1" and chance < 0.4:
            return self.named(1, name)
        if self.style == "some of 0" and chance < 0.25:
            return self.named(0, name)
        choice = _SPATIAL if spatial else _USUAL
        size = self._rng.choice([s for s in choice if s not in self._used] or choice)
        self._used.append(size)
        return self.named(size, name)

    def _reserve(self) -> dict[str, Size]:
        """Sizes for the letters of the hints, drawn before anything else so that they differ."""
        tokens = dict.fromkeys(token for label in self._hints for token in self.tokens(label) or ())
        slides = any(t.isdigit() and int(t) > 1 for t in tokens)
        letters = [t for t in tokens if not t.isdigit()]
        return {t: self.fresh(t, spatial=slides and t in ("H", "W", "D", "L")) for t in letters}

    def named(self, value: int, name: str) -> Size:
        """A size under this name, or one like it if the name stands for another size already."""
        found, count = name, 1
        while self._names.setdefault(found, value) != value or (found == "d" and name == "d"):
            count += 1
            found = f"{name}{count}"
        return Size(value, found)

    def shape(self, rank: int | None = None) -> Shape:
        """The base shape of the sample, on which shapes without a hint vary; of another rank, a new one."""
        if self._base is None:
            self._base = tuple(self.fresh() for _ in range(self._rng.choice(_RANKS)))
        if rank is None or rank == len(self._base):
            return self._base
        return tuple(self.fresh() for _ in range(rank))

    # -- hints ---------------------------------------------------------------------------------------

    def tokens(self, label: str) -> list[str] | None:
        """The axes of a hint, letters and numbers; None without a hint, or for "...", which is any shape."""
        hint = self._hints.get(label)
        tokens = None if hint is None else hint.split(":", 1)[-1].replace("+", " ").split()
        return None if tokens == ["..."] else tokens

    def is_positive(self, label: str) -> bool:
        return "+" in self._hints.get(label, "")

    def hinted(self, label: str) -> Shape | None:
        """The shape that the rule's hint gives a parameter; None without one."""
        tokens = self.tokens(label)
        return None if tokens is None else tuple(map(self._size, tokens))

    def _size(self, token: str) -> int:
        if token.isdigit():
            return int(token)
        if token not in self._letters:
            self._letters[token] = self._reserved[token]
        return self._letters[token]

    def bind(self, label: str, shape: Shape) -> None:
        """Let letters of a hint that have no size yet stand for the sizes that were chosen instead."""
        tokens = self.tokens(label)
        if tokens is not None and len(tokens) == len(shape):
            for token, size in zip(tokens, shape, strict=True):
                if not token.isdigit() and token not in self._letters:
                    self._letters[token] = size if isinstance(size, Size) else self.named(int(size), token)

    def beside(self, label: str, other: Shape) -> Shape | None:
        """The hint's form against another operand: its letters take that one's sizes, axis by axis from the last."""
        tokens = self.tokens(label)
        if tokens is None or len(tokens) > len(other):
            return None
        tail = other[len(other) - len(tokens) :]
        return tuple(int(t) if t.isdigit() else s for t, s in zip(tokens, tail, strict=True))


# -- broadcasting -------------------------------------------------------------------------------------


def broadcast(*shapes: Shape) -> Shape | None:
    """The shape of operands broadcast together; None if they do not fit."""
    rank = max(map(len, shapes), default=0)
    found: list[int] = []
    for i in range(rank):
        at = [s[i - rank + len(s)] for s in shapes if i >= rank - len(s)]
        sizes = [s for s in at if s != 1]
        if any(s != sizes[0] for s in sizes):
            return None
        found.append(next((s for s in sizes if isinstance(s, Size)), sizes[0]) if sizes else at[0])
    return tuple(found)


def variation(shape: Shape, rng: Random, sizes: Sizes) -> Shape:
    """A shape that broadcasts with `shape`: a scalar, the same, one axis of it, a part, or of a higher rank."""
    kinds = {"same": 26, "scalar": 18, "one": 8, "axis": 20, "tail": 10, "some": 8, "wider": 5, "higher": 5}
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "scalar":
        return ()
    if kind == "one":
        return (1,)
    if kind == "same" or not shape:
        return shape
    if kind == "axis":
        axis = rng.randrange(len(shape))
        found = tuple(s if i == axis else 1 for i, s in enumerate(shape))
        return found if rng.random() < 0.4 else found[axis:]
    if kind == "tail":
        return shape[rng.randrange(len(shape)) :]
    if kind == "some":
        return tuple(s if rng.random() < 0.5 else 1 for s in shape)
    if kind == "wider" and 1 in shape:
        return tuple(sizes.fresh() if s == 1 else s for s in shape)
    return (1 if rng.random() < 0.5 else sizes.fresh(), *shape) if len(shape) < _MOST_AXES else shape


def scalar_form(shape: Shape, rng: Random) -> Shape:
    """A shape of one element: mostly of rank 0, at times of a rank up to that of `shape`."""
    chance = rng.random()
    if chance < 0.7:
        return ()
    return (1,) if chance < 0.85 else (1,) * len(shape)


def literal_form(shape: Shape, rng: Random, sizes: Sizes) -> Shape:
    """A shape for a number that a rule writes: mostly a scalar, at times broadcast in full or of a higher rank."""
    kinds = {"scalar": 52, "one": 17, "ones": 8, "rank": 6, "full": 12, "higher": 5}
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "scalar":
        return ()
    if kind == "one":
        return (1,)
    if kind == "ones":
        return (1, 1)
    if kind == "rank":
        return (1,) * len(shape)
    if kind == "full":
        return shape
    return (1,) * (len(shape) + 1) if rng.random() < 0.6 else (sizes.fresh(), *shape)[-_MOST_AXES:]


def relabel(shape: Sequence[int], sources: Sequence[Shape]) -> Shape:
    """A shape with each size that an operand has under a name, under that name."""
    known = {int(s): s for source in sources for s in source if isinstance(s, Size)}
    return tuple(known.get(int(s), int(s)) for s in shape)
