"""Which tensors to leave in float, or in 16 bits, so that the metric stays within its budget and speed is lost least.

The sensitivity orders all steps that give up some speed for accuracy, the best bargain first: a greedy knapsack, in
which what a step gains is the noise that goes, and what it costs are multiply-accumulates in a slower type. Then a
binary search over the number of steps asks the real metric: for n steps at most 1 + ceil(log2 n) times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from graphopt.quant.sensitivity import Sensitivity

__all__ = ["State", "Step", "fewest", "steps"]

_WIDE = 2.0**-16  # the noise of 16 bits over that of 8: a step is 256 times as fine
_OVERHEAD = 1e-3  # of all the work: what a change of type costs beside the work itself


@dataclass(frozen=True)
class State:
    """Positions in a `Sensitivity`: operators in float, activations in float, and activations in 16 bits."""

    floats: frozenset[int] = frozenset()
    plain: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Step:
    """The state after a step, and what it was for: an operator or an activation, by its position."""

    state: State
    operator: int | None = None
    tensor: int | None = None


def fewest(most: int, meets: Callable[[int], bool]) -> int:
    """The fewest steps with which the budget is met; with `most` it is, so that this is not asked.

    Asks at most 1 + ceil(log2(most)) times. Where `meets` is not monotonic, a number for which it is true.
    """
    if most == 0 or meets(0):
        return 0
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if meets(middle):
            high = middle
        else:
            low = middle
    return high


def steps(found: Sensitivity, *, float_cost: float, wide_cost: float | None) -> list[Step]:
    """Steps from everything in 8 bits to everything in float, the best bargain first.

    The costs: how many times as long a multiply-accumulate takes as with 8 bits; no `wide_cost`, no 16 bits.
    """
    order = _Order(found, float_cost, wide_cost)
    made = []
    while (step := order.best()) is not None:
        made.append(step)
        order.state = step.state
    everything = State(frozenset(range(len(found.operators))), frozenset(range(len(found.tensors))))
    if made and not order.is_float(made[-1].state):
        made.append(Step(everything))
    return made


@dataclass
class _Order:
    found: Sensitivity
    float_cost: float
    wide_cost: float | None
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.total = sum(op.macs for op in self.found.operators) or 1

    def is_float(self, state: State) -> bool:
        return len(state.floats) == len(self.found.operators)

    def best(self) -> Step | None:
        """The next step: what takes away most noise for its cost."""
        candidates = [*self._of_operators(), *self._of_tensors()]
        scored = [(self._score(step), step) for step in candidates]
        top = max((score for score, _ in scored), default=0.0)
        return next((step for score, step in scored if score == top), None) if top > 0.0 else None

    def _of_operators(self) -> list[Step]:
        state = self.state
        return [
            Step(State(state.floats | {i}, state.plain, state.wide), operator=i)
            for i in range(len(self.found.operators))
            if i not in state.floats
        ]

    def _of_tensors(self) -> list[Step]:
        state = self.state
        made = []
        for i, tensor in enumerate(self.found.tensors):
            if i in state.plain or not self._is_rounded(i, state):
                continue
            if self.wide_cost is not None and i not in state.wide:
                made.append(Step(State(state.floats, state.plain, state.wide | {i}), tensor=i))
            floats = state.floats.union(tensor.readers, tensor.writers)
            made.append(Step(State(floats, state.plain | {i}, state.wide - {i}), tensor=i))
        return made

    def _score(self, step: Step) -> float:
        gain = self._gain(step.state)
        return gain / (_OVERHEAD + self._cost(step.state) / self.total) if gain > 0.0 else 0.0

    def _gain(self, new: State) -> float:
        """The noise that is there now and not in `new`; noise without end counts for more than any other."""
        gone = [self.found.operators[i].noise for i in new.floats - self.state.floats]
        touched = new.plain ^ self.state.plain | new.wide ^ self.state.wide
        for i in new.floats - self.state.floats:
            touched |= {*self.found.operators[i].inputs, *self.found.operators[i].outputs}
        gone += [self._noise(i, self.state) - self._noise(i, new) for i in touched]
        return sum(min(noise, 1e9) for noise in gone)

    def _noise(self, i: int, state: State) -> float:
        if not self._is_rounded(i, state):
            return 0.0
        noise = min(self.found.tensors[i].noise, 1e9)
        return noise * _WIDE if i in state.wide else noise

    def _is_rounded(self, i: int, state: State) -> bool:
        """Whether an activation is: somebody reads it as integers, or writes it as such."""
        tensor = self.found.tensors[i]
        if i in state.plain:
            return False
        needed = {*tensor.readers, *tensor.writers}
        return not needed or not needed <= state.floats

    def _cost(self, new: State) -> float:
        """How much longer the work takes than now, in multiply-accumulates with 8 bits."""
        operators = self.found.operators
        cost = (self.float_cost - 1.0) * sum(operators[i].macs for i in new.floats - self.state.floats)
        if self.wide_cost is not None:
            wider = self._wide_operators(new) - self._wide_operators(self.state)
            cost += (self.wide_cost - 1.0) * sum(operators[i].macs for i in wider)
        return max(cost, 0.0)

    def _wide_operators(self, state: State) -> set[int]:
        return {op for i in state.wide for op in self.found.tensors[i].readers if op not in state.floats}
