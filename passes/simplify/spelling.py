"""How sizes are best spelled: the fewest nodes that compute given integers from shapes that are there.

What is wanted is a tuple of numbers and polynomials in sizes. It is looked for among the integer tensors that the
graph has already, then read from the shape of a tensor, then put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graphopt_passes.simplify.sources import Elements, Sources
from graphopt_passes.simplify.written import Made, Spelled, cost

from graphopt import Dim, Value

_SHAPE_RANGE = 15  # the opset from which Shape has a start and an end
_AXES_INPUT = 13


class Speller:
    """Spells elements from `sources`, without the values in `gone`, which the result is to make superfluous."""

    def __init__(self, sources: Sources, gone: Iterable[Value] = ()) -> None:
        self._sources = sources
        self._gone = set(gone)

    def vector(self, elements: Elements) -> Spelled | None:
        """An int64 tensor of one axis; None if a size is nowhere to be read."""
        if all(isinstance(e, int) for e in elements):
            return elements
        known = self._known(elements)
        if known is not None:
            return known
        found = [s for s in (self._gathered(elements), self._joined(elements)) if s is not None]
        return min(found, key=cost, default=None)

    def scalar(self, element: int | Dim) -> Spelled | None:
        """An int64 tensor without axes; None if the size is nowhere to be read."""
        if isinstance(element, int):
            return element
        known = self._known(element)
        if known is not None:
            return known
        vector = self._known((element,))
        if vector is not None:
            return self._squeezed(vector)
        for tensor, axis in self._holders(element):
            whole = self._shape(tensor, 0, tensor.rank or 0)
            return Made("Gather", (whole, axis), (("axis", 0),))
        return self._computed(element, scalar=True)

    def _known(self, key: Elements | Dim) -> Value | None:
        value = self._sources.known.get(key)
        return None if value is None or value in self._gone or not value.alive else value

    def _holders(self, size: int | Dim) -> Iterator[tuple[Value, int]]:
        for tensor, axis in self._sources.holders.get(size, ()) if isinstance(size, Dim) else ():
            if tensor.alive and tensor not in self._gone:
                yield tensor, axis

    def _shape(self, tensor: Value, start: int, end: int) -> Spelled:
        """The sizes of the axes from `start` to `end`."""
        whole = start == 0 and end == tensor.rank
        known = self._sources.shapes.get(tensor)
        if known is not None and (not known.alive or known in self._gone):
            known = None
        if whole:
            return known if known is not None else Made("Shape", (tensor,))
        if self._sources.opset >= _SHAPE_RANGE:
            return Made("Shape", (tensor,), (("end", end), ("start", start)))
        base = known if known is not None else Made("Shape", (tensor,))
        if end == start + 1:
            return Made("Gather", (base, (start,)), (("axis", 0),))
        return Made("Slice", (base, (start,), (end,)))

    def _gathered(self, elements: Elements) -> Spelled | None:
        """All of them from the Shape of one tensor, in any order."""
        for tensor, _ in self._holders(elements[0]):
            shape = list(tensor.shape or ())
            if all(e in shape for e in elements):
                axes = tuple(shape.index(e) for e in elements)
                return Made("Gather", (self._shape(tensor, 0, len(shape)), axes), (("axis", 0),))
        return None

    def _joined(self, elements: Elements) -> Spelled | None:
        """Ranges of shapes, numbers and computed sizes, one after the other."""
        parts: list[Spelled] = []
        at = 0
        while at < len(elements):
            part, count = self._run(elements[at:])
            if part is None:
                return None
            parts.append(part)
            at += count
        return parts[0] if len(parts) == 1 else Made("Concat", tuple(parts), (("axis", 0),))

    def _run(self, elements: Elements) -> tuple[Spelled | None, int]:
        """What the first elements are in one piece, and how many."""
        numbers = next((i for i, e in enumerate(elements) if not isinstance(e, int)), len(elements))
        if numbers:
            return elements[:numbers], numbers
        for count in range(len(elements), 0, -1):
            known = self._known(elements[:count])
            if known is not None:
                return known, count
        found: tuple[Spelled | None, int] = None, 1
        for tensor, axis in self._holders(elements[0]):
            sizes = tensor.shape or ()
            count = 1
            while count < len(elements) and sizes[axis + count : axis + count + 1] == (elements[count],):
                count += 1
            if found[0] is None or count > found[1]:
                found = self._shape(tensor, axis, axis + count), count
        if found[0] is not None:
            return found
        first = elements[0]
        assert isinstance(first, Dim)
        scalar = self._known(first)
        return (self._unsqueezed(scalar) if scalar is not None else self._computed(first, scalar=False)), 1

    def _computed(self, element: Dim, *, scalar: bool) -> Spelled | None:
        """A polynomial by arithmetic on sizes; None if it is one size, which is nowhere to be read."""
        if element.is_symbol:
            return None
        total: Spelled | None = None
        for factor, symbols in sorted(element.terms, key=lambda t: (t[0] < 0, not t[1])):
            if not symbols:
                part: Spelled | None = _number(abs(factor), scalar)
            else:
                part = self._product(abs(factor), symbols, scalar)
            if part is None:
                return None
            if total is None:
                if factor < 0:
                    return None
                total = part
            else:
                total = Made("Add" if factor > 0 else "Sub", (total, part))
        return total

    def _product(self, factor: int, symbols: tuple[Dim, ...], scalar: bool) -> Spelled | None:
        sizes = self._factors(symbols, scalar)
        if sizes is None:
            return None
        for part in [_number(factor, scalar)] if factor != 1 else []:
            sizes = Made("Mul", (sizes, part))
        return sizes

    def _factors(self, symbols: tuple[Dim, ...], scalar: bool) -> Spelled | None:
        """The product of some sizes: of axes side by side at once, else one by one."""
        whole: int | Dim = 1
        for symbol in symbols:
            whole = whole * symbol
        known = self._known(whole if scalar else (whole,)) if isinstance(whole, Dim) else None
        if known is not None:
            return known
        if len(symbols) > 1:
            for first in dict.fromkeys(symbols):
                for tensor, axis in self._holders(first):
                    sizes = (tensor.shape or ())[axis : axis + len(symbols)]
                    if sorted(map(str, sizes)) == sorted(map(str, symbols)) and set(sizes) == set(symbols):
                        run = self._shape(tensor, axis, axis + len(symbols))
                        return Made("ReduceProd", (run,), (("keepdims", int(not scalar)),))
        parts = [self.scalar(s) if scalar else self._run((s,))[0] for s in symbols]
        result: Spelled | None = parts[0]
        for part in parts[1:]:
            result = None if result is None or part is None else Made("Mul", (result, part))
        return result

    def _squeezed(self, vector: Value) -> Made:
        return Made("Squeeze", (vector,))

    def _unsqueezed(self, scalar: Value) -> Made:
        if self._sources.opset >= _AXES_INPUT:
            return Made("Unsqueeze", (scalar, (0,)))
        return Made("Unsqueeze", (scalar,), (("axes", 0),))


def _number(number: int, scalar: bool) -> Elements | int:
    return number if scalar else (number,)
