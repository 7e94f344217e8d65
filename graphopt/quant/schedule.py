"""How much of a batch, and which of the watched values, go into one run, so that what is fetched stays in a budget.

Rows are what a batch is cut by first: a run on fewer rows costs as much less, while another run on the same rows for
other values costs all of it again. Only where one row alone is too much are the values divided into groups. Sizes
come from declared shapes where those tell, and otherwise from the runs: a value of unknown size is first fetched
alone, then two of them together, then four.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["Schedule"]


class Schedule:
    """Sizes of the values `names`, in bytes per row, as far as they are known.

    `known`: from declared shapes, for the first batch. `budget`: bytes that are fetched in one run at most; a value
    that takes more by itself has a run of its own. `single`: one row at a time.
    """

    def __init__(self, names: Sequence[str], known: Mapping[str, int], budget: int) -> None:
        self.names = list(names)
        self.budget = budget
        self.single = False
        self._sizes = dict(known)
        self._volume = 0.0  # elements that the inputs had in a row, where the sizes are from
        self._grown = True  # whether the present rows have as many

    def rows(self, available: int) -> int:
        """How many of the `available` rows go into the next run."""
        if self.single or any(name not in self._sizes for name in self.names):
            return 1
        return max(1, min(available, self.budget // max(1, sum(self._sizes.values()))))

    def begin(self, volume: float) -> None:
        """The next rows have `volume` elements each, in all inputs: if that is more, values may grow as its square."""
        if self._volume and volume > self._volume:
            growth = (volume / self._volume) ** 2
            self._sizes = {name: int(size * growth) for name, size in self._sizes.items()}
        self._grown = volume >= self._volume
        self._volume = max(volume, self._volume)

    def groups(self, rows: int) -> Iterator[list[str]]:
        """The values, in groups that are fetched one after another; `learn` what each run told before the next."""
        unknown = [name for name in self.names if name not in self._sizes]
        yield from _packed([name for name in self.names if name in self._sizes], dict(self._sizes), self.budget // rows)
        count = 1
        while unknown:
            yield unknown[:count]
            largest = max(self._sizes.values(), default=0) * rows
            unknown = unknown[count:]
            count = max(1, min(2 * count, self.budget // max(largest, 1)))

    def learn(self, sizes: Mapping[str, int], rows: int) -> None:
        """`sizes`: bytes that values took for so many rows; what was expected of larger inputs is not forgotten."""
        for name, size in sizes.items():
            row = -(-size // rows)
            self._sizes[name] = row if self._grown else max(row, self._sizes.get(name, 0))


def _packed(names: Iterable[str], sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    group: list[str] = []
    total = 0
    for name in names:
        if group and total + sizes[name] > most:
            yield group
            group, total = [], 0
        group.append(name)
        total += sizes[name]
    if group:
        yield group
