"""What is quantized: trained networks with labels, nets of full size, and a folder of real models with their data.

Nothing of the folder is in this project: without it, the trained fixtures and the nets of full size are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from tests.bench import nets

ROOT = Path(__file__).parents[3]
Outputs = list[Any]


@dataclass(frozen=True)
class Case:
    """A model with samples to calibrate with, others to judge it by, and how: `points` of the outputs for all of
    these, in percent, or None, where only the distance from the float model counts.
    """

    name: str
    model: Path
    calibration: dict[str, Any]
    test: dict[str, Any]
    points: Callable[[Outputs], float] | None = None
    transformer: bool = False


def top1(labels: Any) -> Callable[[Outputs], float]:
    def points(outputs: Outputs) -> float:
        return 100.0 * float(np.mean(outputs[0].reshape(len(labels), -1).argmax(axis=1) == labels))

    return points


def fixtures() -> Iterator[Case]:
    data = ROOT / "fixtures" / "data"
    with np.load(data / "digits_calib.npz") as file:
        calibration = dict(file)
    with np.load(data / "digits_test.npz") as file:
        test = dict(file)
    labels = np.load(data / "digits_labels.npy")
    for name in ("residual_cnn", "depthwise_se", "vit", "bilstm"):
        path = ROOT / "fixtures" / "models" / f"{name}.onnx"
        yield Case(name, path, calibration, test, top1(labels), transformer=name == "vit")


def full_size(folder: Path, only: set[str]) -> Iterator[Case]:
    """ResNet-50, MobileNetV2, ViT-B/32 and BERT-base with made-up weights: for speed, kernels and distance."""
    for name in [n for n in nets.NETS if not only or n in only]:
        path = folder / f"{name}.onnx"
        if not path.exists():
            onnx.save(nets.NETS[name](), path)
        calibration, test = (_stacked(nets.inputs(name, n, seed)) for n, seed in ((8, 0), (4, 1)))
        yield Case(name, path, calibration, test, transformer=name in ("vit_b32", "bert_base"))


def _stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}


def zoo(folder: Path) -> Iterator[Case]:
    """Trained models of a folder that has labelled data for them."""
    data, models = folder / "data", folder / "models"
    digits = np.load(data / "mnist_x_u8.npy").astype(np.float32).reshape(-1, 1, 28, 28)
    labels = np.load(data / "mnist_y.npy")
    scaled = ((digits / 255.0 - 0.1307) / 0.3081).astype(np.float32)
    for name, images in (("mnist_cntk_8", digits), ("burn_mnist", scaled)):
        path = models / f"{name}.onnx"
        entry = _entry(path)
        yield Case(name, path, {entry: images[:200]}, {entry: images[200:]}, top1(labels[200:]))
    path = models / "magika_standard_v3_3.onnx"
    tokens, kinds = np.load(data / "magika_tokens_i32.npy"), np.load(data / "magika_y.npy")
    yield Case(path.stem, path, {_entry(path): tokens}, {_entry(path): tokens}, top1(kinds))


def _entry(path: Path) -> str:
    return str(onnx.load(path).graph.input[0].name)


# Image nets whose preprocessing is known: the scale and the mean that are taken from pixels of 0 to 255.
PHOTO_NETS = {
    "fastestdet": (1 / 255, 0.0),
    "nanodet_m_320": (1 / 57.7, 115.0),
    "yunet_120x160_2021": (1.0, 0.0),
    "ultraface_rfb_320_ie": (1 / 128, 127.0),
    "person_reid_0248": (1.0, 0.0),
    "deeploy_mcunet": (1 / 255, 0.0),
    "ppocrv3_det_ch": (1 / 57.0, 116.0),
}


def photographs(folder: Path, only: set[str]) -> Iterator[Case]:
    """Trained image nets of a folder that has photographs, cut into pieces: judged by distance alone."""
    wanted = [n for n in PHOTO_NETS if not only or n in only]
    files = sorted((folder / "data" / "photos").iterdir()) if wanted else []
    photos = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    for name, (scale, mean) in ((n, PHOTO_NETS[n]) for n in wanted):
        path = folder / "models" / f"{name}.onnx"
        value = onnx.load(path).graph.input[0]
        shape = [d.dim_value or 320 for d in value.type.tensor_type.shape.dim]
        last = shape[-1] == 3
        height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
        pieces = [p for photo in photos for p in _pieces(photo, height, width)]
        images = (np.stack(pieces).astype(np.float32) - mean) * scale
        images = np.ascontiguousarray(images if last else images.transpose(0, 3, 1, 2), np.float32)
        yield Case(name, path, {value.name: images[::2]}, {value.name: images[1::2][:12]})


def _pieces(photo: Any, height: int, width: int) -> Iterator[Any]:
    """Four pieces of a photograph, each resized by taking the nearest pixels."""
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = photo[y * photo.shape[0] // 4 :, x * photo.shape[1] // 4 :][: photo.shape[0] // 2, : photo.shape[1] // 2]
        rows = np.arange(height) * part.shape[0] // height
        columns = np.arange(width) * part.shape[1] // width
        yield part[rows][:, columns]
