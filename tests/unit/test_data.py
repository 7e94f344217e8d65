"""The user's samples: every layout that is understood, and the exact words for every one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import DataError
from graphopt.verify.data import load_data

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
BATCHED = {"image": (F32, ("batch", 1, 4, 4)), "scale": (F32, ())}
STATIC = {"image": (F32, (1, 1, 4, 4))}
KINDS = "give a .npz or .npy file, a folder of them, or from Python a list of dicts of arrays"
IMAGES = np.arange(70 * 16, dtype=np.float32).reshape(70, 1, 4, 4)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz_rows_come_in_batches_and_can_be_read_again(tmp_path: Path) -> None:
    data = load_data(saved(tmp_path / "d.npz", image=IMAGES, scale=np.float32(2), label=np.arange(70)), BATCHED)
    for _ in range(2):
        samples = list(data)
        assert [sample["image"].shape[0] for sample in samples] == [32, 32, 6]
        assert np.array_equal(np.concatenate([sample["image"] for sample in samples]), IMAGES)
        assert all(set(sample) == {"image", "scale"} and sample["scale"] == 2 for sample in samples)
    assert len(list(load_data(tmp_path / "d.npz", BATCHED, batch=70))) == 1


def test_a_fixed_batch_takes_that_many_rows(tmp_path: Path) -> None:
    samples = list(load_data(saved(tmp_path / "d.npz", image=IMAGES), STATIC))
    assert len(samples) == 70 and samples[3]["image"].shape == (1, 1, 4, 4)
    assert len(list(load_data(str(tmp_path / "d.npz"), {"image": (F32, (35, 1, 4, 4))}))) == 2


def test_one_more_axis_counts_samples() -> None:
    inputs = {"ids": (I64, (1, "seq")), "state": (F32, (2, 1, 3))}
    data = load_data({"ids": np.ones((5, 1, 7), np.int64), "state": np.zeros((5, 2, 1, 3), np.float32)}, inputs)
    samples = list(data)
    assert len(samples) == 5
    assert samples[0]["ids"].shape == (1, 7) and samples[0]["state"].shape == (2, 1, 3)


def test_other_sources(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES[:2])
    assert len(list(load_data(tmp_path / "a.npy", STATIC))) == 2
    np.save(tmp_path / "b.npy", IMAGES[2:3])
    assert len(list(load_data(tmp_path, STATIC))) == 3
    assert len(list(load_data(IMAGES, STATIC))) == 70
    assert len(list(load_data([{"image": IMAGES[:1]}, IMAGES[:2]], STATIC))) == 3
    assert len(list(load_data(lambda: ({"image": IMAGES[:1]} for _ in range(4)), STATIC))) == 4
    np.savez(tmp_path / "c.npz", IMAGES[:4])
    assert len(list(load_data(tmp_path / "c.npz", STATIC))) == 4


def test_fortran_order_and_foreign_byte_order(tmp_path: Path) -> None:
    swapped = np.asfortranarray(IMAGES).astype(">f4")
    samples = list(load_data(saved(tmp_path / "d.npz", image=swapped), STATIC))
    assert samples[5]["image"].dtype == np.float32 and np.array_equal(samples[5]["image"], IMAGES[5:6])


def test_strings_and_bfloat16(tmp_path: Path) -> None:
    words = saved(tmp_path / "w.npz", x=np.array(["a", "bc"]))
    (sample,) = load_data(words, {"x": (np.dtype(object), (2,))})
    assert sample["x"].tolist() == ["a", "bc"]
    halves = np.ones((2, 3), ml_dtypes.bfloat16)
    (sample,) = load_data(saved(tmp_path / "h.npz", x=halves), {"x": (ir.DataType.BFLOAT16, (2, 3))})
    assert sample["x"].dtype == ml_dtypes.bfloat16


def test_values_are_streamed_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "d.npz", image=IMAGES)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("read whole"))
    assert next(iter(load_data(path, STATIC)))["image"].shape == (1, 1, 4, 4)


def fails(spec: Any, inputs: Any = STATIC) -> str:
    with pytest.raises(DataError) as caught:
        list(load_data(spec, inputs))
    return str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"imago": IMAGES},
            "data: no array for the input 'image'\n  did you mean 'imago'? Known: imago",
        ),
        ({}, "data: no array for the input 'image'\n  there is no array at all"),
        (
            {"image": IMAGES.astype(np.float64)},
            "data: the array for 'image' is float64, but the input takes float32\n"
            "  convert it first: array.astype('float32')",
        ),
        (
            {"image": IMAGES.astype(np.uint8)},
            "data: the array for 'image' is uint8, but the input takes float32",
        ),
        (
            {"image": IMAGES[:, :, :3]},
            "data: the array for 'image' has shape [70, 1, 3, 4], but the input takes [1, 1, 4, 4]\n"
            "  one more axis in front is taken to count samples",
        ),
        ({"image": IMAGES[:0]}, "data: there are no samples in it"),
        ([], "the data has no samples"),
        ([1], f"sample 0: is int, not a dict of arrays\n  {KINDS}"),
        (
            iter([]),
            "the data is an iterator, which can be read only once\n"
            "  give a list, or a function that returns a fresh iterator",
        ),
        (7, f"data cannot be read from int\n  {KINDS}"),
    ],
)
def test_what_does_not_fit(spec: Any, message: str) -> None:
    assert fails(spec) == message


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "an infinity")])
def test_values_that_are_not_finite(value: float, word: str) -> None:
    images = IMAGES.copy()
    images[4, 0, 1, 2] = value
    assert fails({"image": images}) == f"data: the array for 'image' has {word} at [0, 0, 1, 2] of sample 4"


def test_inputs_that_count_different_things_make_one_sample() -> None:
    nodes, edges = np.zeros((64, 2), np.float32), np.zeros((90, 2), np.float32)
    inputs = {"a": (F32, ("nodes", 2)), "b": (F32, ("edges", 2)), "c": (F32, (3,))}
    spec = {"a": nodes, "b": edges, "c": np.zeros(3, np.float32)}
    (sample,) = load_data(spec, inputs)
    assert [len(array) for array in sample.values()] == [64, 90, 3]
    assert [len(s["b"]) for s in load_data([spec, {**spec, "b": edges[:7]}], inputs)] == [90, 7]


def test_inputs_must_agree() -> None:
    inputs = {"a": (F32, ("n", 2)), "b": (F32, ("n", 2))}
    spec = {"a": np.zeros((64, 2), np.float32), "b": np.zeros((2, 2), np.float32)}
    assert fails(spec, inputs) == "data: the inputs have different numbers of samples: 'a' 64, 'b' 2"
    assert fails(np.zeros(2), inputs) == (
        "data: one array, but the model has 2 inputs\n  give a .npz file or a dict with an array for each: a, b"
    )
    assert fails({}, {}) == "the model has no inputs to give data to"


def _text(path: Path) -> Path:
    path.write_text("not an archive")
    return path


def _objects(path: Path) -> Path:
    np.savez(path, image=np.array([{"run": "code"}], dtype=object))
    return path


def _cut(path: Path) -> Path:
    path = saved(path, image=IMAGES)
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.npz", lambda path: path, "no such file\n  give a .npz"),
        ("d.csv", _text, "cannot read data of kind '.csv'\n  give a .npz"),
        ("d.npz", _text, "is not a .npz file\n  write it with numpy.savez"),
        ("d.npz", _cut, "is not a .npz file\n  write it with numpy.savez"),
        ("d.npy", _text, "the array 'image' cannot be read: "),
        (
            "d.npz",
            _objects,
            "the array 'image' holds Python objects\n"
            "  Python objects are not read from files, because that can run code: save plain arrays",
        ),
        ("d", lambda path: path.mkdir() or path, "no .npz or .npy file and no image is in this folder\n  give a .npz"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, make: Callable[[Path], Path], message: str) -> None:
    path = make(tmp_path / name)
    assert fails(path).startswith(f"{path}: {message}")


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", IMAGES)
    path = tmp_path / "d.npy"
    path.write_bytes(path.read_bytes()[:-10])
    assert fails(path) == f"{path}: the array 'image' ends too early"
