"""Images, functions in files, and readers of ONNX Runtime's quantizer as samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphopt.errors import DataError, UsageError
from graphopt.verify.data import load_data
from graphopt.verify.recipe import Recipe, parse_recipe, prepared

F32 = np.dtype(np.float32)
NET = {"image": (F32, ("batch", 3, 8, 8))}
LABELLED = {"image": (F32, (1, 4))}


def photo(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def loaded(path: Any, recipe: str | None, inputs: Any = NET, **options: Any) -> list[np.ndarray]:
    return [sample["image"] for sample in load_data(prepared(path, recipe), inputs, **options)]


def fails(path: Any, recipe: str | None = None, inputs: Any = NET) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        loaded(path, recipe, inputs)
    return str(caught.value)


# --- images


def test_pixels_become_channels_first_and_are_normalized(tmp_path: Path) -> None:
    pixels = [photo(tmp_path / f"{i}.png", 8, 8, i) for i in range(3)]
    (tmp_path / "notes.txt").write_text("left alone")
    found = loaded(tmp_path, "scale=1/255,mean=0.5:0.25:0,std=0.5:1:2,nchw", batch=2)
    assert [a.shape for a in found] == [(2, 3, 8, 8), (1, 3, 8, 8)] and found[0].dtype == np.float32
    wanted = (np.stack(pixels).transpose(0, 3, 1, 2) / 255 - np.array([0.5, 0.25, 0]).reshape(1, 3, 1, 1)) / np.array(
        [0.5, 1, 2]
    ).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(np.concatenate(found), wanted, rtol=1e-5, atol=1e-6)


def test_channels_last_turned_and_gray_and_as_bytes(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "a.png", 8, 8)
    (bgr,) = loaded(tmp_path / "a.png", "bgr,nhwc", {"image": (F32, (1, 8, 8, 3))})
    assert np.array_equal(bgr[0], pixels[:, :, ::-1])
    (gray,) = loaded(tmp_path / "a.png", "gray", {"image": (np.dtype(np.uint8), (1, 1, 8, 8))})
    assert gray.dtype == np.uint8 and np.array_equal(gray[0, 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_the_shorter_side_and_the_middle(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "a.png", 20, 30)
    (found,) = loaded(tmp_path, "resize=10,crop=8")
    small = np.asarray(Image.fromarray(pixels).resize((15, 10), Image.Resampling.BILINEAR))
    assert np.array_equal(found[0], small[1:9, 4:12].transpose(2, 0, 1))
    (stretched,) = loaded(tmp_path, "resize=8x8,filter=bicubic")
    exact = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(stretched[0], exact.transpose(2, 0, 1))


def test_a_letterbox_is_filled(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 4, 8)
    (found,) = loaded(tmp_path, "letterbox=8,fill=7")
    assert (found[0, :, :2] == 7).all() and (found[0, :, 6:] == 7).all() and not (found[0, :, 2:6] == 7).all()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "{}: images are no arrays yet\n  say how they become inputs: --preprocess resize=256,crop=224,scale=1/255,layout=nchw,rgb"),
        ("crop=32", "{}/a.png: is 8x8, too small to crop 32x32 from\n  add resize=… to --preprocess"),
        ("resize=4", "{}/b.png: comes out as [3, 4, 8], and a.png as [3, 4, 4]\n  add crop=…, or resize=HEIGHTxWIDTH, to --preprocess"),
        ("resize=4x4", "{}: the array for 'image' has shape [2, 3, 4, 4], but the input takes [batch, 3, 8, 8]\n  one more axis in front is taken to count samples"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit(tmp_path: Path, recipe: str | None, message: str) -> None:
    photo(tmp_path / "a.png", 8, 8)
    photo(tmp_path / "b.png", 8, 16)
    inputs = {"image": (F32, ("batch", 3, 4, 4))} if recipe == "resize=4" else NET
    assert fails(tmp_path, recipe, inputs) == message.format(tmp_path)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    assert fails(tmp_path, "rgb").startswith(f"{tmp_path}/a.png: the image cannot be read: cannot identify image file")
    np.save(tmp_path / "b.npy", np.zeros((1, 3, 8, 8), np.float32))
    assert fails(tmp_path, "rgb") == f"{tmp_path}: both arrays and images are in this folder\n  part them"
    (tmp_path / "a.png").unlink()
    assert fails(tmp_path, "rgb") == f"{tmp_path}: there is no image to preprocess\n  leave --preprocess out"
    array = np.zeros((1, 3, 8, 8), np.float32)
    hint = "give the path of an image, or of a folder of them"
    assert fails({"image": array}, "rgb") == f"only images in files are preprocessed\n  {hint}"


def test_inputs_that_are_no_images(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 8, 8)
    ids = {"image": (np.dtype(np.int64), (1, 3, 8, 8))}
    assert fails(tmp_path, "rgb", ids) == "preprocess: the input 'image' is int64, which is no image"
    pixels = {"image": (np.dtype(np.uint8), (1, 3, 8, 8))}
    assert fails(tmp_path, "scale=1/255", pixels) == (
        "preprocess: the input 'image' is uint8, which takes pixels as they are, without scale, mean and std"
    )
    two = {**NET, "mask": (F32, (1,))}
    assert fails(tmp_path, "rgb", two).startswith(f"{tmp_path}: one array, but the model has 2 inputs")


def test_without_pillow_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png", 8, 8)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert fails(tmp_path, "rgb") == (
        "images are read with Pillow, which is not installed\n  pip install 'graphopt[images]'"
    )


def test_a_recipe_is_read() -> None:
    text = "resize=256, crop=224x200, scale=1/255, mean=0.5, std=1:2:3, layout=nhwc, bgr, filter=bicubic"
    assert parse_recipe(text) == Recipe(
        resize=(256,), crop=(224, 200), scale=1 / 255, mean=(0.5,), std=(1.0, 2.0, 3.0), layout="nhwc", color="bgr",
        filter="bicubic",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size=3", "preprocess: there is no part 'size'\n  did you mean 'resize'?"),
        ("crop=big", "preprocess: crop cannot be 'big'\n  it takes a side, 224, or height and width, 224x160"),
        ("resize=0", "preprocess: resize cannot be '0'\n  it takes the shorter side, 256, or height and width, 256x256"),
        ("scale=1/0", "preprocess: scale cannot be '1/0'\n  it takes a factor, 1/255"),
        ("std=0", "preprocess: std cannot be '0'\n  it takes a number other than 0, or one for each channel, 0.229:0.224:0.225"),
        ("mean=1:2", "preprocess: mean has 2 numbers, and rgb has 3 channels"),
        ("mean=1:2:3,gray", "preprocess: mean has 3 numbers, and gray has 1 channels"),
        ("crop=3,crop=4", "preprocess: crop is there twice"),
        ("rgb,color=bgr", "preprocess: color is there twice"),
        ("resize=3,letterbox=4", "preprocess: resize and letterbox exclude each other"),
        ("", "preprocess: it says nothing\n  such as resize=256"),
        ("layout=hwc", "preprocess: layout cannot be 'hwc'\n  it takes nchw or nhwc"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(text)
    assert str(caught.value).startswith(message)


def test_a_recipe_needs_data() -> None:
    with pytest.raises(UsageError, match="there is nothing to preprocess"):
        prepared(None, "rgb")
    assert prepared("photos", None) == "photos"


# --- functions in files


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "calib.py"
    path.write_text("import numpy as np\n\n\n" + body)
    return f"{path}:samples"


def test_a_function_is_called_anew_for_each_reading(tmp_path: Path) -> None:
    spec = script(tmp_path, "def samples():\n    for i in range(3):\n        yield {'image': np.full((1, 4), i, np.float32)}\n")
    data = load_data(spec, LABELLED)
    assert [[s["image"][0, 0] for s in data] for _ in range(2)] == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def samples():\n    raise ValueError('gone')\n", "{}:5: samples() raised ValueError: gone\n  run again with -v for the traceback"),
        (
            "def samples():\n    yield {'image': np.zeros((1, 4), np.float32)}\n    raise KeyError('x')\n",
            "{}:6: samples() raised KeyError: 'x'\n  run again with -v for the traceback",
        ),
        ("def samples():\n    return []\n", "the data has no samples"),
        ("def samples():\n    return None\n", "{}:?: samples() raised TypeError: 'NoneType' object is not iterable"),
        ("def samples():\n    yield 3\n", "sample 0: is int, not a dict of arrays"),
        ("def samples():\n    yield {'imago': np.zeros((1, 4), np.float32)}\n", "sample 0: no array for the input 'image'"),
        ("def samples():\n    yield {'image': np.zeros((1, 4))}\n", "sample 0: the array for 'image' is float64, but the input takes float32"),
        ("def samples():\n    yield {'image': np.zeros((1, 5), np.float32)}\n", "sample 0: the array for 'image' has shape [1, 5]"),
        ("def samples():\n    yield {'image': np.zeros((0, 4), np.float32)}\n", "sample 0: there are no samples in it"),
        ("def samples():\n    yield {'image': np.full((1, 4), np.nan, np.float32)}\n", "sample 0: the array for 'image' has NaN at [0, 0] of sample 0"),
        ("def sample():\n    yield 3\n", "{}: there is no function 'samples'\n  did you mean 'sample'?"),
        ("import nothing_like_it\n", "{}:4: the file raised ModuleNotFoundError: No module named 'nothing_like_it'"),
    ],
)  # fmt: skip
def test_functions_that_fail(tmp_path: Path, body: str, message: str) -> None:
    spec = script(tmp_path, body)
    message = message.replace("{}:?", "{}").format(tmp_path / "calib.py")
    assert fails(spec, None, LABELLED).startswith(message)


def test_a_function_of_no_file() -> None:
    assert fails("nowhere.py:samples") == "nowhere.py: there is no such file\n  write --data FILE.py:FUNCTION"


# --- readers


class Reader:
    """As ONNX Runtime's documentation has it: an iterator that is used up."""

    def __init__(self, items: list[Any]) -> None:
        self.items = iter(items)
        self.asked = 0

    def get_next(self) -> Any:
        self.asked += 1
        return next(self.items, None)


class Rewinding(Reader):
    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.all = items

    def rewind(self) -> None:
        self.items = iter(self.all)


ROWS = [{"image": np.full((1, 4), i, np.float32)} for i in range(3)]


@pytest.mark.parametrize("kind", [Reader, Rewinding])
def test_a_reader_is_read_as_often_as_needed(kind: type[Reader]) -> None:
    data = load_data(kind(ROWS), LABELLED)
    assert next(iter(data))["image"][0, 0] == 0
    assert [[s["image"][0, 0] for s in data] for _ in range(2)] == [[0, 1, 2]] * 2


def test_a_reader_is_asked_for_no_more_than_is_needed() -> None:
    reader = Reader(ROWS)
    first = next(iter(load_data(reader, LABELLED)))
    assert first["image"][0, 0] == 0 and reader.asked == 1


class Raising(Reader):
    def get_next(self) -> Any:
        raise OSError("disk")


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Reader([]), "the data has no samples"),
        (Reader([3]), "sample 0: get_next() returned int, not a dict of arrays or None"),
        (Rewinding([3]), "sample 0: is int, not a dict of arrays"),
        (Raising([]), "Raising: get_next() raised OSError: disk"),
        (Reader([{"image": np.array([object()])}]), "Reader: the array for 'image' cannot be recorded\n  give the reader a rewind()"),
    ],
)  # fmt: skip
def test_readers_that_fail(reader: Reader, message: str) -> None:
    assert fails(reader, None, LABELLED).startswith(message)
