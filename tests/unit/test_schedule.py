"""What is fetched at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.errors import UsageError
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant.calibrate import calibrate
from graphopt.quant.collect import Watch, _Collector
from graphopt.quant.memory import parse_bytes
from graphopt.quant.schedule import Schedule
from graphopt.quant.sizes import cut_inputs, sizes_of
from graphopt.runtime.package import package


def run(schedule: Schedule, sizes: dict[str, int], rows: int) -> list[list[str]]:
    """The groups of a run, in which each value takes so many bytes a row."""
    found = []
    for group in schedule.groups(rows):
        found.append(list(group))
        schedule.learn({name: sizes[name] * rows for name in group}, rows)
    return found


def test_groups_hold_to_the_budget() -> None:
    sizes = {"a": 60, "b": 60, "c": 30, "d": 500, "e": 1}
    assert run(Schedule("abcde", sizes, 100), sizes, 1) == [["a"], ["b", "c"], ["d"], ["e"]]
    assert run(Schedule("abcde", sizes, 200), sizes, 2) == [["a"], ["b", "c"], ["d"], ["e"]]


def test_rows_are_cut_before_values_are() -> None:
    schedule = Schedule("ab", {"a": 60, "b": 40}, 450)
    assert [schedule.rows(n) for n in (32, 3)] == [4, 3]
    assert Schedule("ab", {"a": 600, "b": 40}, 450).rows(32) == 1


def test_unknown_sizes_are_learned_from_small_groups() -> None:
    sizes = dict.fromkeys("abcdefgh", 10)
    schedule = Schedule("abcdefgh", {"h": 10}, 40)
    assert schedule.rows(32) == 1
    assert run(schedule, sizes, 1) == [["h"], ["a"], ["b", "c"], ["d", "e", "f", "g"]]
    assert run(schedule, sizes, 1) == [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    assert Schedule("ab", {}, 40).rows(5) == 1 and schedule.rows(5) == 1


def test_larger_inputs_are_expected_to_take_the_square_until_they_are_seen() -> None:
    schedule = Schedule("ab", {}, 100)
    schedule.begin(8)
    assert run(schedule, {"a": 40, "b": 40}, 1) == [["a"], ["b"]]
    schedule.begin(16)
    assert run(schedule, {"a": 45, "b": 45}, 1) == [["a"], ["b"]]
    assert run(schedule, {"a": 45, "b": 45}, 1) == [["a", "b"]]
    schedule.begin(4)
    assert run(schedule, {"a": 1, "b": 1}, 1) == [["a", "b"]]
    assert schedule.rows(9) == 1


def text(source: str) -> Model:
    return Model(*read_model(onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + source).SerializeToString()))


def test_sizes_follow_from_the_shapes_of_what_is_fed() -> None:
    model = text(
        "g (float[N,4,H] x) => (float y) { a = Relu(x)  s = Constant<value_ints=[0,-1]>()  b = Reshape(a, s)"
        "  c = Transpose(b)  d = Cast<to=10>(c)  e = NonZero(b)  y = ReduceSum(d) }"
    )
    assert sizes_of(model, ["a", "b", "c", "d", "e"], {"x": (1, 4, 7)}) == {"a": 112, "b": 112, "c": 112, "d": 56}


@pytest.mark.parametrize(
    ("inputs", "cut"),
    [
        ("float[N,4] x", ["x"]),
        ("float[N,4] x, float[N,2] z", ["x", "z"]),
        ("float[N,4] x, float[2,4] z", ["x"]),
        ("float[1,4] x", []),
        ("float[N,4] x, float[M,2] z", []),
        ("float[N,4] x, float[2,N] z", []),
        ("float[N,N] x", []),
        ("float x", []),
    ],
)
def test_the_inputs_that_are_cut_by_rows(inputs: str, cut: list[str]) -> None:
    assert cut_inputs(text(f"g ({inputs}) => (float y) {{ y = Relu(x) }}")) == cut


NET = text(
    "g (float[N,6] x) => (float[N,6] y) <float[6,6] w = {"
    + ",".join(str(i % 7 - 3) for i in range(36))
    + "}> { a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  y = Add(c, x) }"
)


def test_the_budget_changes_what_is_held_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(size=(n, 6)).astype(np.float32)} for n in (8, 8, 3)]
    names = ["a", "b", "c", "y"]
    plenty, little, tiny = (calibrate(NET, names, data, budget=b) for b in (1 << 20, 200, 1))
    for other in (little, tiny):
        for name in names:
            one, two = plenty.statistics[name], other.statistics[name]
            assert (one.count, one.minimum, one.maximum) == (two.count, two.minimum, two.maximum)
            assert (one.mean_minimum, one.mean_maximum, one.batches) == (two.mean_minimum, two.mean_maximum, two.batches)
            assert np.array_equal(one.bins, two.bins)


def test_no_run_fetches_more_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b", "c", "y"]
    held = []
    collector = _Collector(package(NET.ir, outputs=names), [Watch(n) for n in names], ["x"], {}, 100)
    runs = collector.session.run

    def watched(*args: Any) -> Any:
        found = runs(*args)
        held.append(sum(array.nbytes for array in found.values()))
        return found

    monkeypatch.setattr(collector.session, "run", watched)
    assert len(list(collector.add({"x": np.ones((8, 6), np.float32)}))) == 10
    assert held[:2] == [48, 24], "two rows together, and one of them alone: are they independent?"
    assert held[2:5] == [24, 48, 24] and held[5:] == [96] * 7


def test_a_batch_that_only_the_interface_allows_is_run_row_by_row() -> None:
    model = text("g (float[N,6] x) => (float[N,6] y) { s = Constant<value_ints=[1,6]>()  a = Reshape(x, s)  y = Relu(a) }")
    data = [{"x": np.arange(24, dtype=np.float32).reshape(4, 6)}]
    assert calibrate(model, ["y"], data).statistics["y"].maximum == 23


@pytest.mark.parametrize(
    ("written", "amount"), [("4096", 4096), ("512MiB", 2**29), ("1.5 GB", 1_500_000_000), ("2kib", 2048), ("7 b", 7)]
)
def test_amounts_of_memory(written: str, amount: int) -> None:
    assert parse_bytes(written) == amount


@pytest.mark.parametrize("written", ["", "MiB", "-1", "5 apples", "0", "0.2B", "1e9"])
def test_what_is_no_amount_of_memory(written: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(written)
    hint = "write a number and a unit, such as 512MiB or 2GB"
    assert str(caught.value) == f"{written!r} is no amount of memory\n  {hint}"


def test_steps_of_a_sequence_are_not_run_apart() -> None:
    model = text(
        "g (float[T,2] x) => (float[2] y, float[T,2] z) { h = Constant<value = float[2] {0, 0}>() y, z = Scan<num_scan_inputs=1, "
        "body = b (float[2] s, float[2] v) => (float[2] s2, float[2] w) { s2 = Add(s, v)  w = Neg(s2) }>(h, x) }"
    )
    x = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    for budget in (1 << 20, 1):
        assert calibrate(model, ["z"], [{"x": x}, {"x": x[:1]}], budget=budget).statistics["z"].minimum == -20


def test_rows_that_know_of_each_other_are_not_run_apart() -> None:
    model = text("g (float[N,2] x) => (float[N,2] y) { m = ReduceMean<axes=[0]>(x)  y = Sub(x, m) }")
    x = np.array([[0, 0], [4, 4], [0, 0], [0, 0]], np.float32)
    assert calibrate(model, ["y"], [{"x": x}], budget=1).statistics["y"].maximum == 3
