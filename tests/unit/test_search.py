"""The order in which accuracy is bought, and how often the metric is asked."""

from __future__ import annotations

import io
import itertools
import math

import pytest
from rich.console import Console

from graphopt.quant.search import State, fewest, steps
from graphopt.quant.sensitivity import Operator, Sensitivity, Tensor
from graphopt.report.table import sensitivity


@pytest.mark.parametrize("most", [1, 2, 3, 7, 16, 53, 1000])
def test_every_number_of_steps_is_found_in_logarithmic_time(most: int) -> None:
    for wanted in range(most + 1):
        asked: list[int] = []

        def meets(count: int, wanted: int = wanted, asked: list[int] = asked) -> bool:
            asked.append(count)
            return count >= wanted

        assert fewest(most, meets) == wanted
        assert len(asked) <= 2 + math.log2(most)
        assert len(set(asked)) == len(asked)
        assert most not in asked, "what is float throughout meets the budget by itself"


def test_nothing_to_do_is_not_asked() -> None:
    assert fewest(0, lambda _: pytest.fail("asked")) == 0


def test_a_metric_that_is_not_monotonic_gives_something_that_meets_it() -> None:
    good = {3, 5, 9, 10}
    found = fewest(10, lambda count: count in good)
    assert found in good


def operator(i: int, noise: float, macs: int, inputs: tuple[int, ...], outputs: tuple[int, ...] = ()) -> Operator:
    return Operator(f"y{i}", f"layer{i}", "Conv", macs, noise, inputs, outputs)


def chain(noises: list[float], tensors: list[float], macs: list[int]) -> Sensitivity:
    """Layers in a line: layer i reads activation i and writes activation i + 1, if there is one."""
    last = len(tensors) - 1
    ops = [operator(i, n, m, (i,), (i + 1,) if i < last else ()) for i, (n, m) in enumerate(zip(noises, macs, strict=True))]
    found = []
    for i, noise in enumerate(tensors):
        readers = (i,) if i < len(ops) else ()
        found.append(Tensor((f"x{i}",), noise, readers, (i - 1,) if i else ()))
    return Sensitivity(tuple(ops), tuple(found), sum(noises) + sum(tensors), 1)


def test_the_layer_that_breaks_comes_first() -> None:
    found = chain([1e-5, 1e-5, 0.8, 1e-5], [1e-6] * 4, [100] * 4)
    order = steps(found, float_cost=3.0, wide_cost=None)
    assert order[0].operator == 2
    assert order[0].state == State(frozenset({2}))


def test_of_two_that_cost_as_much_accuracy_the_cheaper_goes() -> None:
    found = chain([1e-3, 1e-3, 1e-3], [1e-9] * 3, [1000, 10, 1000])
    assert steps(found, float_cost=3.0, wide_cost=None)[0].operator == 1


def test_an_activation_takes_those_along_that_write_and_read_it() -> None:
    found = chain([1e-6] * 4, [1e-6, 1e-6, 0.5, 1e-6], [100] * 4)
    first = steps(found, float_cost=3.0, wide_cost=None)[0]
    assert first.tensor == 2
    assert first.state == State(frozenset({1, 2}), frozenset({2}))


def test_what_nobody_writes_as_integers_goes_with_its_reader() -> None:
    found = chain([1e-6] * 4, [0.5, 1e-6, 1e-6, 1e-6], [100] * 4)
    assert steps(found, float_cost=3.0, wide_cost=None)[0].state.floats == frozenset({0})


def test_sixteen_bits_are_tried_before_float() -> None:
    found = chain([1e-6] * 4, [1e-6, 1e-6, 0.5, 1e-6], [100] * 4)
    order = steps(found, float_cost=3.0, wide_cost=1.5)
    assert order[0].state == State(wide=frozenset({2}))
    assert order[-1].state.floats == frozenset(range(4))


def test_sixteen_bits_do_not_help_a_weight() -> None:
    found = chain([1e-6, 0.5, 1e-6], [1e-6] * 3, [100] * 3)
    assert steps(found, float_cost=3.0, wide_cost=1.5)[0].operator == 1


def test_noise_without_end_comes_first() -> None:
    found = chain([0.9, math.inf, 1e-6], [1e-6] * 3, [1, 10_000, 1])
    assert steps(found, float_cost=3.0, wide_cost=None)[0].operator == 1


def test_it_ends_with_everything_in_float_and_each_step_gives_up_more() -> None:
    found = chain([1e-4, 1e-5, 0.0, 1e-3], [1e-4, 0.0, 1e-5, 1e-3], [10, 20, 30, 40])
    order = steps(found, float_cost=3.0, wide_cost=2.0)
    assert order[-1].state.floats == frozenset(range(4))
    for before, after in itertools.pairwise(order):
        assert before.state.floats <= after.state.floats
        assert before.state != after.state


def test_without_noise_there_is_nothing_to_gain() -> None:
    assert steps(chain([0.0, 0.0], [0.0, 0.0], [1, 1]), float_cost=3.0, wide_cost=None) == []


def test_what_an_operator_brings_and_who_carries_it() -> None:
    found = chain([1e-4, 1e-6], [1e-5, 1e-3], [1, 1])
    first, second = found.operators
    assert found.of(first) == pytest.approx(1e-4 + 1e-5 + 1e-3)
    assert found.worst() == [first, second]
    kind, tensor, noise = found.carrier(first)
    assert (kind, tensor, noise) == ("output", found.tensors[1], 1e-3)
    assert found.reason(first) == "output x1, 30.0 dB"


def test_an_activation_that_no_layer_reads_or_writes_is_ranked_by_itself() -> None:
    """One behind a Concat whose parts come from Relus, say: no layer's row has it."""
    found = chain([1e-4, 1e-6], [1e-5, 1e-3], [1, 1])
    alone = Tensor(("joined", "moved"), 1e-2, (), (), -1.0, 2.0, 7.4)
    found = Sensitivity(found.operators, (*found.tensors, alone), found.noise, 1)
    assert found.between() == [alone]
    text = io.StringIO()
    Console(width=120, file=text).print(sensitivity(found))
    lines = text.getvalue().splitlines()
    (row,) = [line.split() for line in lines if "joined" in line]
    assert row == ["joined", "activation", "20.0", "dB", "itself:", "-1", "…", "2,", "7", "σ"]
    assert next(line for line in lines if "dB" in line).startswith("joined")
