"""Sizes that the caller asks for: inputs of given shapes, named sizes set to numbers, batches to be freed.

    --shape image:1,3,224,224     the shape of an input; without a name if there is one input only
    --dim batch=1                 what the model calls `batch` is 1, wherever it occurs
    --dim image:0=1               the same for one axis of one input
    --dim batch=?                 the first axis of every input, fixed so far, is free and called `batch`
    --dim state:1=batch           the same for one axis of one input
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import UsageError

Place = tuple[str, int]
"""An input and one of its axes."""
_MOST = 10**9
_FREE = "?"
_DIM_HINT = "write batch=1, INPUT:AXIS=1, batch=? or INPUT:AXIS=batch"


@dataclass(frozen=True)
class SizeRequest:
    """What was asked for.

    `shapes`: sizes by input, the name empty for the only one; None leaves a size as it is. `names`, `places`: numbers
    for named sizes and for single axes. `freed`: what axes that become free are to be called; `batch`: the name for the
    first axes of all inputs, if these are to be freed.
    """

    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    names: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[Place, int] = field(default_factory=dict)
    freed: Mapping[Place, str] = field(default_factory=dict)
    batch: str | None = None

    def __bool__(self) -> bool:
        return bool(self.shapes or self.names or self.places or self.frees)

    @property
    def frees(self) -> bool:
        """Whether sizes that are fixed are to be free."""
        return bool(self.freed) or self.batch is not None


def size_request(
    shapes: Mapping[str, Sequence[int | None]] | Sequence[int | None] | None,
    dims: Mapping[str, int | str | None] | None,
) -> SizeRequest:
    """The request in the arguments of `graphopt.optimize`.

    `shapes`: a shape for each input, or one shape if there is one input; `dims`: a number, or `"?"` or a name to free
    it, for each size, which is a name or `INPUT:AXIS`. Raises `UsageError` for what cannot be meant.
    """
    by_name = shapes if isinstance(shapes, Mapping) else {"": shapes} if shapes is not None else {}
    names: dict[str, int] = {}
    places: dict[Place, int] = {}
    freed: dict[Place, str] = {}
    batch: str | None = None
    for key, wanted in (dims or {}).items():
        place = _place(key)
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            number = _number(wanted, f"{key}={wanted}")
            if place is None:
                names[key] = number
            else:
                places[place] = number
        elif wanted is not None and not isinstance(wanted, str):
            raise UsageError(f"a size cannot be {wanted!r}", where=key, hint=_DIM_HINT)
        elif place is not None:
            freed[place] = "batch" if wanted in (None, _FREE) else str(wanted)
        elif wanted not in (None, _FREE):
            raise UsageError(f"a size cannot be {wanted!r}", where=key, hint=_DIM_HINT)
        elif batch is not None:
            raise UsageError(f"only one size can be the batch, not {batch!r} and {key!r}", hint=_DIM_HINT)
        else:
            batch = key
    return SizeRequest({name: _shape(name, sizes) for name, sizes in by_name.items()}, names, places, freed, batch)


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int | None, ...]]:
    """`--shape INPUT:1,3,224,224`, or `1,3,224,224` for the only input; `?` leaves a size as it is."""
    found: dict[str, tuple[int | None, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        words = [word.strip() for word in sizes.replace("x", ",").split(",")]
        if name in found:
            raise UsageError(f"there are two shapes for {name!r}" if name else "there are two shapes", where=text)
        if not all(word == _FREE or _is_number(word) for word in words):
            hint = "write INPUT:1,3,224,224, or 1,3,224,224"
            raise UsageError("this is no shape", where=f"--shape {text}", hint=hint)
        found[name] = _shape(name, [None if word == _FREE else int(word) for word in words])
    return found


def parse_dims(texts: Iterable[str]) -> dict[str, int | str]:
    """`--dim NAME=NUMBER`, `INPUT:AXIS=NUMBER`, `NAME=?` or `INPUT:AXIS=NAME`."""
    found: dict[str, int | str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.rpartition("="))
        if not equals or not key or not value:
            raise UsageError("this sets no size", where=f"--dim {text}", hint=_DIM_HINT)
        if key in found:
            raise UsageError(f"{key!r} is set twice", where=f"--dim {text}")
        found[key] = int(value) if _is_number(value) else value
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def _place(key: str) -> Place | None:
    name, colon, axis = key.rpartition(":")
    return (name, int(axis)) if colon and name and _is_number(axis) else None


def _shape(name: str, sizes: object) -> tuple[int | None, ...]:
    whole = isinstance(sizes, Sequence) and all(n is None or type(n) is int for n in sizes)
    if not isinstance(sizes, Sequence) or not whole:
        raise UsageError(f"a shape cannot be {sizes!r}", where=name or None, hint="give numbers: (1, 3, 224, 224)")
    return tuple(None if n is None else _number(n, name or "the input") for n in sizes)


def _number(number: int, where: str) -> int:
    if not 0 <= number < _MOST:
        raise UsageError(f"a size cannot be {number}", where=where, hint="sizes are whole numbers from 0 on")
    return number
