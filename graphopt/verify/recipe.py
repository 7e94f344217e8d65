"""How an image becomes the input of a model, as the user declares it; nothing about it is guessed.

`resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,layout=nchw,rgb`. The order in which
the parts are written does not matter. They are done in this one: colour, resize or letterbox, crop, scale, mean, std,
layout; that is how torchvision and most training code do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphopt.errors import UsageError, nearest

__all__ = ["Prepared", "Recipe", "parse_recipe", "prepared"]

_WORDS = {"rgb": "color", "bgr": "color", "gray": "color", "nchw": "layout", "nhwc": "layout"}
_EXAMPLE = "resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,layout=nchw,rgb"

Size = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """`resize`: the shorter side becomes (side,), or the image (height, width) whatever its shape was; `letterbox`:
    it is fitted into (height, width), and the rest is filled with `fill`; `crop`: (height, width) from the middle.
    `filter`: of the resampling, `bilinear` or `bicubic`. Then (pixel × scale − mean) ÷ std, with one number or one for
    each channel. `color`: `rgb`, `bgr` or `gray`; `layout`: `nchw` or `nhwc`.
    """

    resize: Size | None = None
    letterbox: Size | None = None
    fill: float = 114.0
    crop: Size | None = None
    filter: str = "bilinear"
    color: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"

    @property
    def plain(self) -> bool:
        """Whether pixels keep their values of 0 to 255."""
        return self.scale == 1.0 and not any(self.mean) and set(self.std) == {1.0}


@dataclass(frozen=True)
class Prepared:
    """Data, and the recipe by which its images become samples."""

    data: Any
    recipe: Recipe
    text: str


def prepared(data: Any, text: str | None) -> Any:
    """`data`, with the recipe `text` for its images, if there is one; raises what `parse_recipe` does."""
    if text is None:
        return data
    if data is None:
        raise UsageError("there is nothing to preprocess", where="preprocess", hint="give images with --data")
    return Prepared(data, parse_recipe(text), text)


def parse_recipe(text: str) -> Recipe:
    """Read a recipe. Raises `UsageError` for unknown parts and values that they cannot have."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and key.lower() in _WORDS:
            key, value = _WORDS[key.lower()], key
        if key not in _READ:
            raise UsageError(f"there is no part {key!r}", where="preprocess", hint=nearest(key, [*_READ, *_WORDS]))
        if key in found:
            raise UsageError(f"{key} is there twice", where="preprocess")
        read, takes = _READ[key]
        try:
            found[key] = read(value.lower())
        except (ValueError, ZeroDivisionError):
            raise UsageError(f"{key} cannot be {value!r}", where="preprocess", hint=f"it takes {takes}") from None
    if not found:
        raise UsageError("it says nothing", where="preprocess", hint=f"such as {_EXAMPLE}")
    if "resize" in found and "letterbox" in found:
        raise UsageError("resize and letterbox exclude each other", where="preprocess")
    recipe = Recipe(**found)
    channels = 1 if recipe.color == "gray" else 3
    for key in ("mean", "std"):
        if len(getattr(recipe, key)) not in (1, channels):
            what = f"{key} has {len(getattr(recipe, key))} numbers, and {recipe.color} has {channels} channels"
            raise UsageError(what, where="preprocess")
    return recipe


def _number(text: str) -> float:
    top, slash, bottom = text.partition("/")
    value = float(top) / float(bottom) if slash else float(top)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(_number, text.split(":")))


def _nonzero(text: str) -> tuple[float, ...]:
    found = _numbers(text)
    if 0.0 in found:
        raise ValueError(text)
    return found


def _size(text: str) -> Size:
    found = tuple(map(int, text.split("x")))
    if len(found) > 2 or min(found) < 1:
        raise ValueError(text)
    return found


def _area(text: str) -> Size:
    found = _size(text)
    return found if len(found) == 2 else (found[0], found[0])


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "resize": (_size, "the shorter side, 256, or height and width, 256x256"),
    "letterbox": (_area, "a side, 640, or height and width, 480x640"),
    "fill": (_number, "the value of a pixel, 114"),
    "crop": (_area, "a side, 224, or height and width, 224x160"),
    "filter": (_one_of("bilinear", "bicubic"), "bilinear or bicubic"),
    "color": (_one_of("rgb", "bgr", "gray"), "rgb, bgr or gray"),
    "scale": (_number, "a factor, 1/255"),
    "mean": (_numbers, "a number, or one for each channel, 0.485:0.456:0.406"),
    "std": (_nonzero, "a number other than 0, or one for each channel, 0.229:0.224:0.225"),
    "layout": (_one_of("nchw", "nhwc"), "nchw or nhwc"),
}
