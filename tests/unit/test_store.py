"""Calibration in a file: written, used again, and refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.errors import DataError, UsageError
from graphopt.ir.load import read_model
from graphopt.ir.model import Model
from graphopt.quant.calibrate import Calibration, calibrate
from graphopt.quant.collect import Watch
from graphopt.quant.store import everything, load_calibration, save_calibration

TEXT = (
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> '
    "{ a = MatMul(x, w)  b = Relu(a)  i = Shape(b)  y = MatMul(b, w) }"
)
HINT = "\n  remove it, and it is written anew from the data"


def model(text: str = TEXT) -> Model:
    return Model(*read_model(onnx.parser.parse_model(text).SerializeToString()))


def batches(n: int = 3) -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(i).normal(size=(4, 2)).astype(np.float32)} for i in range(n)]


def stored(path: Path, watches: list[Watch | str] | None = None) -> Calibration:
    found = calibrate(model(), watches or [Watch("x", gram=-1), "a", Watch("b", 1)], batches())
    save_calibration(found, model(), path)
    return found


def test_what_comes_back_is_what_went_in(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    before = stored(path)
    after = load_calibration(path, model(), [Watch("x", gram=-1), Watch("b", 1)])
    assert (after.batches, after.synthetic, after.warnings) == (3, False, ())
    assert list(after.statistics) == list(before.statistics) and list(after.along) == [("x", -1), ("b", 1)]
    for name, s in before.statistics.items():
        found = after.statistics[name]
        for slot in s.__slots__:
            assert np.array_equal(getattr(found, slot), getattr(s, slot)), slot
    for key, c in before.along.items():
        for slot in c.__slots__:
            assert np.array_equal(getattr(after.along[key], slot), getattr(c, slot)), slot
    assert np.array_equal(after.grams["x"], before.grams["x"])


def test_everything_is_all_floats_and_the_channels_around_weighted_operators() -> None:
    assert everything(model()) == [
        Watch("x"), Watch("x", -1), Watch("a"), Watch("a", -1), Watch("b"), Watch("b", -1), Watch("y"), Watch("y", -1)
    ]  # fmt: skip


def fails(path: Path, watches: list[Any] | None = None, text: str = TEXT) -> str:
    with pytest.raises(DataError) as caught:
        load_calibration(path, model(text), watches or ["a"])
    return str(caught.value)


def test_a_file_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    stored(path)
    other = "\n  give another file to --calibration"
    assert fails(path, text=TEXT.replace("(float[N,2] x)", "(float[N,2] z)").replace("(x, w)", "(z, w)")) == (
        f"{path}: is the calibration of another model: its inputs are 'x' [None, 2], and here 'z' [None, 2]{other}"
    )
    wide = TEXT.replace("[N,2] y", "[N,3] y").replace("y = MatMul(b, w)", "p = Constant<value_ints=[0,0,0,1]>() y = Pad(b, p)")
    assert fails(path, text=wide) == (
        f"{path}: is the calibration of another model: its outputs are 'y' [None, 2], and here 'y' [None, 3]{other}"
    )
    inner = TEXT.replace("a = MatMul(x, w)", "q = MatMul(x, w) a = ReduceSum<keepdims=0>(q)").replace("y = MatMul(b, w)", "y = Mul(x, b)")
    assert fails(path, text=inner) == (
        f"{path}: is the calibration of another model: 'a' is [None, 2] there, and [] here{other}"
    )


def test_a_fixed_batch_is_no_other_model_and_neither_are_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    stored(path)
    fixed = TEXT.replace("[N,2]", "[4,2]").replace("{1, 2, 3, 4}", "{5, 6, 7, 8}")
    assert load_calibration(path, model(fixed), ["a"]).batches == 3


def test_what_is_not_in_it(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    stored(path)
    assert fails(path, ["y"]) == (
        f"{path}: has no statistics of 'y', which is in this model\n  it is of another model, or of other passes:"
        " remove it, and it is written anew from the data"
    )
    for watch in (Watch("a", 1), Watch("b", gram=1)):
        assert fails(path, [watch]) == f"{path}: has nothing about the channels of {watch.name!r} along axis 1{HINT}"


def rewritten(path: Path, **changes: Any) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def about(path: Path, **changes: Any) -> np.ndarray:
    with np.load(path) as file:
        return np.array(json.dumps(json.loads(str(file["about"])) | changes))


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("it was executed",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"no archive"),
        lambda p: p.write_bytes(p.read_bytes()[:-200]),
        lambda p: p.write_bytes(p.read_bytes()[:500]),
        lambda p: p.write_bytes(pickle.dumps(Bomb())),
        lambda p: np.savez(p, about=np.array(Bomb(), dtype=object)),
        lambda p: rewritten(p, bins=np.array([Bomb()], dtype=object)),
        lambda p: rewritten(p, about=None),
        lambda p: rewritten(p, about=np.array("[1]")),
        lambda p: rewritten(p, about=np.array("{")),
        lambda p: rewritten(p, about=about(p, interface=[])),
        lambda p: rewritten(p, about=about(p, interface={"inputs": [3], "outputs": []})),
        lambda p: rewritten(p, about=about(p, values=[["a", None]])),
        lambda p: rewritten(p, about=about(p, channels=[["x", -1], ["b", 1], ["a", 0]])),
        lambda p: rewritten(p, real=None),
        lambda p: rewritten(p, real=np.full((3, 6), np.nan)),
        lambda p: rewritten(p, whole=np.full((3, 6), -1)),
        lambda p: rewritten(p, whole=np.full((3, 6), 1 << 40)),
        lambda p: rewritten(p, bins=np.zeros((3, 7), np.int64)),
        lambda p: rewritten(p, channel_0_total=np.zeros(5)),
        lambda p: rewritten(p, gram_0=np.zeros((2, 3))),
        lambda p: zipfile.ZipFile(p, "w").close(),
    ],
)
def test_a_file_that_is_damaged(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "c.npz"
    stored(path)
    damage(path)
    assert fails(path) == f"{path}: is damaged, or no calibration of graphopt's{HINT}"


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    stored(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    assert fails(path).endswith(f"is damaged, or no calibration of graphopt's{HINT}")


def test_a_file_of_a_later_graphopt_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    stored(path)
    rewritten(path, about=about(path, format=2))
    assert fails(path) == f"{path}: is of format 2, and this graphopt reads 1{HINT}"
    assert fails(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


# --- through `optimize`


def counted(counts: list[int]) -> Any:
    """Samples that are counted when they are taken; one is taken to run the result, and one to time it."""

    def samples() -> Iterator[dict[str, np.ndarray]]:
        for batch in batches():
            counts.append(1)
            yield batch

    return samples


def test_it_is_written_once_and_then_no_data_is_run(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    source = onnx.parser.parse_model(TEXT)
    counts: list[int] = []
    first = graphopt.optimize(source, "quant", target="onnx", data=counted(counts), calibration=path, verify=False)
    assert path.is_file() and len(counts) >= 3
    written = path.read_bytes()
    counts.clear()
    second = graphopt.optimize(source, "quant", target="onnx", data=counted(counts), calibration=path, verify=False)
    assert len(counts) <= 2 and path.read_bytes() == written
    assert first.model == second.model and second.report.calibration == "data"
    assert any(f"ranges from {path}" in p.notes for p in second.report.passes)
    third = graphopt.optimize(source, "quant{method=percentile}", target="openvino", calibration=path, verify=False)
    assert third.report.calibration == "data"


def test_guesses_are_flagged_from_a_file_and_give_way_to_data(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    source = onnx.parser.parse_model(TEXT)
    graphopt.optimize(source, "quant", calibration=path, verify=False)
    again = graphopt.optimize(source, "quant", calibration=path, verify=False)
    assert again.report.calibration == "synthetic"
    assert any(p.key == "graphopt.calibration" and p.value == "synthetic" for p in again.model.metadata_props)
    with pytest.raises(DataError) as caught:
        graphopt.optimize(source, "quant", data=batches(), calibration=path, verify=False)
    assert str(caught.value) == f"{path}: holds the ranges of made-up inputs, and there is data now{HINT}"


def test_places_that_cannot_be_written_are_told_before_the_data_is_run(tmp_path: Path) -> None:
    path = tmp_path / "no" / "c.npz"
    counts: list[int] = []
    with pytest.raises(UsageError) as caught:
        graphopt.optimize(onnx.parser.parse_model(TEXT), "quant", data=counted(counts), calibration=path, verify=False)
    assert str(caught.value) == f"{path}: the folder of the calibration does not exist\n  mkdir -p {path.parent}"
    assert counts == []


def test_options_of_quant_without_quant() -> None:
    for option in ("calibration", "calib_mem"):
        with pytest.raises(UsageError, match=f"no pass of this run takes {option.replace('_', '-')}"):
            graphopt.optimize(onnx.parser.parse_model(TEXT), "cleanup", verify=False, **{option: "1"})  # type: ignore[arg-type]
