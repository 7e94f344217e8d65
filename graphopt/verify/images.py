"""Image files as a column of samples, prepared by the user's recipe. They are decoded by Pillow, a few at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import DataError
from graphopt.verify.columns import Column
from graphopt.verify.recipe import Recipe

__all__ = ["SUFFIXES", "column_of_images"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

Array = np.ndarray[Any, Any]


def column_of_images(paths: Sequence[Path], recipe: Recipe, name: str, dtype: np.dtype[Any]) -> Column:
    """The images as an array of one more axis, which counts them; only the first is read here.

    Raises `DataError` if Pillow is not installed, an image cannot be read, or the type is not one of pixels.
    """
    if dtype.kind != "f" and not (dtype == np.uint8 and recipe.plain):
        bytewise = "which takes pixels as they are, without scale, mean and std"
        why = bytewise if dtype == np.uint8 else "which is no image"
        raise DataError(f"the input {name!r} is {dtype.name}, {why}", where="preprocess")
    first = _prepare(paths[0], recipe, dtype)
    return _Images(name, dtype, (len(paths), *first.shape), paths=tuple(paths), recipe=recipe)


@dataclass(frozen=True)
class _Images(Column):
    paths: tuple[Path, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)

    def whole(self) -> Array:
        """All images."""
        return np.concatenate(list(self.blocks(len(self.paths))))

    def blocks(self, rows: int) -> Iterator[Array]:
        """The images, `rows` at a time."""
        for start in range(0, len(self.paths), rows):
            yield np.stack([self._image(path) for path in self.paths[start : start + rows]])

    def _image(self, path: Path) -> Array:
        array = _prepare(path, self.recipe, self.dtype)
        if array.shape != self.shape[1:]:
            what = f"comes out as {list(array.shape)}, and {self.paths[0].name} as {list(self.shape[1:])}"
            hint = "add crop=…, or resize=HEIGHTxWIDTH, to --preprocess"
            raise DataError(what, where=str(path), hint=hint)
        return array


def _prepare(path: Path, recipe: Recipe, dtype: np.dtype[Any]) -> Array:
    pillow = _pillow()
    try:
        with pillow.open(path) as file:
            image = file.convert("L" if recipe.color == "gray" else "RGB")
    except (OSError, ValueError, pillow.DecompressionBombError) as error:
        raise DataError(f"the image cannot be read: {error}", where=str(path)) from None
    image = _shaped(image, recipe, pillow, path)
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if recipe.color == "bgr":
        pixels = pixels[:, :, ::-1]
    if dtype != np.uint8:
        mean, std = np.array(recipe.mean, np.float32), np.array(recipe.std, np.float32)
        pixels = ((pixels.astype(np.float32) * np.float32(recipe.scale) - mean) / std).astype(dtype)
    return np.ascontiguousarray(pixels if recipe.layout == "nhwc" else pixels.transpose(2, 0, 1))


def _shaped(image: Any, recipe: Recipe, pillow: Any, path: Path) -> Any:
    """The image in its final height and width."""
    resample = pillow.Resampling[recipe.filter.upper()]
    width, height = image.size
    if recipe.resize is not None:
        factor = recipe.resize[0] / min(width, height)
        size = recipe.resize[::-1] if len(recipe.resize) == 2 else _scaled(width, height, factor)
        image = image.resize(size, resample)
    if recipe.letterbox is not None:
        high, wide = recipe.letterbox
        image = image.resize(_scaled(width, height, min(wide / width, high / height)), resample)
        color = round(recipe.fill)
        box = pillow.new(image.mode, (wide, high), color if image.mode == "L" else (color,) * 3)
        box.paste(image, ((wide - image.width) // 2, (high - image.height) // 2))
        image = box
    if recipe.crop is not None:
        high, wide = recipe.crop
        if image.width < wide or image.height < high:
            what = f"is {image.height}x{image.width}, too small to crop {high}x{wide} from"
            raise DataError(what, where=str(path), hint="add resize=… to --preprocess")
        left, top = round((image.width - wide) / 2), round((image.height - high) / 2)
        image = image.crop((left, top, left + wide, top + high))
    return image


def _scaled(width: int, height: int, factor: float) -> tuple[int, int]:
    return max(1, int(width * factor + 1e-6)), max(1, int(height * factor + 1e-6))


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        hint = "pip install 'graphopt[images]'"
        raise DataError("images are read with Pillow, which is not installed", hint=hint) from None
