"""Full-size networks for quantization figures: ResNet-50, MobileNetV2, ViT-B/32 and BERT-base, as exporters write them.

There are no trained weights in the repository, so these are drawn, with the statistics that decide how well integers do:

* Convolutions have their BatchNormalization folded in. What comes out of each is measured on natural-looking images
  while the network is built, and scaled and shifted per channel to a gamma and beta such as training finds (gamma
  log-normal, beta mostly negative, so that the activation cuts off more than half). Weights of one layer thus differ by
  an order of magnitude between channels, most of all depthwise ones (Nagel et al., arXiv:1906.04721, figure 2).
* Matrices of transformers differ between rows and columns; LayerNorm has a few large gammas, and the residual stream two
  channels that are far larger than the others (Dettmers et al., arXiv:2208.07339; Bondarenko et al., arXiv:2109.12948).
  Queries and keys are scaled so that attention is neither flat nor one-hot.

So the figures for speed and for kernels hold for the trained networks of these shapes; the noise ratios compare tools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["NETS", "bert_base", "inputs", "mobilenet_v2", "resnet50", "vit_b32"]

Array = np.ndarray[Any, Any]

_SEQUENCE = 128
_VOCABULARY = 30522
_PROBE = 128  # height and width of the images on which convolutions are scaled


def resnet50() -> onnx.ModelProto:
    """ResNet-50 v1.5 (the stride is in the 3 × 3): `image` float32 [1, 3, 224, 224] to `logits` [1, 1000]."""
    net = _Convolutional(50)
    x = net.max_pool(net.relu(net.conv("image", 64, 7, stride=2)))
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for i in range(blocks):
            step = stride if i == 0 else 1
            y = net.relu(net.conv(x, width, 1))
            y = net.relu(net.conv(y, width, 3, stride=step))
            y = net.conv(y, 4 * width, 1, gamma=0.4, beta=0.0)
            skip = net.conv(x, 4 * width, 1, stride=step, beta=0.0) if i == 0 else x
            x = net.relu(net.add(y, skip))
    return net.finish(x, "ResNet-50")


def mobilenet_v2() -> onnx.ModelProto:
    """MobileNetV2 (ReLU6 as Clip): `image` float32 [1, 3, 224, 224] to `logits` [1, 1000]."""
    net = _Convolutional(2)
    x, channels = net.relu6(net.conv("image", 32, 3, stride=2)), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, blocks, stride in stages:
        for i in range(blocks):
            y = x if expansion == 1 else net.relu6(net.conv(x, expansion * channels, 1))
            y = net.relu6(net.conv(y, expansion * channels, 3, stride=stride if i == 0 else 1, depthwise=True))
            y = net.conv(y, width, 1, beta=0.0)
            x, channels = (net.add(y, x) if i > 0 else y), width
    return net.finish(net.relu6(net.conv(x, 1280, 1)), "MobileNetV2")


def vit_b32() -> onnx.ModelProto:
    """ViT-B/32: `image` float32 [1, 3, 224, 224] to `logits` [1, 1000]; LayerNormalization, GELU written out."""
    net = _Transformer(32, tokens=50, opset=17)
    kernel = net.normal((net.width, 3, 32, 32), 1.5 / np.sqrt(3 * 32 * 32))
    patches = net.node("Conv", ["image", net.weight(kernel), net.weight(net.around(0.0, 0.1))],
                       kernel_shape=[32, 32], strides=[32, 32])  # fmt: skip
    flat = net.node("Reshape", [patches, net.weight(np.array([1, net.width, 49]))])
    rows = net.node("Transpose", [flat], perm=[0, 2, 1])
    x = net.node("Concat", [net.weight(net.around(0.0, 0.3).reshape(1, 1, -1)), rows], axis=1)
    place = net.normal((1, 50, net.width), 0.2)
    place[..., net.large] += (-9.0, 7.0)
    x = net.node("Add", [x, net.weight(place)])
    for _ in range(12):
        y = net.layer_norm(x)
        x = net.node("Add", [net.linear(net.attention(y, None), net.width, 0.35, drift=True), x])
        x = net.node("Add", [net.feed_forward(net.layer_norm(x)), x])
    first = net.node("Gather", [net.layer_norm(x), net.weight(np.array(0))], axis=1)
    kernel = net.matrix(net.width, 1000, 2.5)
    net.node("Gemm", [first, net.weight(np.ascontiguousarray(kernel.T)), net.weight(net.normal((1000,), 0.3))],
             output="logits", transB=1)  # fmt: skip
    return net.model("ViT-B/32", [("image", TensorProto.FLOAT, (1, 3, 224, 224))], [("logits", (1, 1000))])


def bert_base() -> onnx.ModelProto:
    """BERT-base of 128 tokens: `input_ids`, `attention_mask`, `token_type_ids` int64 [1, 128] to `last_hidden_state`
    [1, 128, 768] and `pooler_output` [1, 768]; LayerNorm and GELU written out.
    """
    net = _Transformer(110, tokens=_SEQUENCE, opset=14)
    names = ("input_ids", "token_type_ids")
    sizes = (_VOCABULARY, 2)
    words, kinds = (
        net.node("Gather", [net.weight(net.normal((size, net.width), 0.05)), name])
        for name, size in zip(names, sizes, strict=True)
    )
    x = net.node("Add", [net.node("Add", [words, kinds]), net.weight(net.normal((1, _SEQUENCE, net.width), 0.03))])
    x = net.layer_norm(x, written_out=True, large=3.0)
    wide = net.node("Unsqueeze", ["attention_mask", net.weight(np.array([1, 2]))])
    real = net.node("Cast", [wide], to=TensorProto.FLOAT)
    hidden = net.node("Sub", [net.number(1.0), real])
    mask = net.node("Mul", [hidden, net.number(-10000.0)])
    for _ in range(12):
        y = net.linear(net.attention(x, mask), net.width, 0.5, drift=True)
        x = net.layer_norm(net.node("Add", [y, x]), written_out=True, large=3.0)
        x = net.layer_norm(net.node("Add", [net.feed_forward(x), x]), written_out=True, large=3.0)
    net.node("Identity", [x], output="last_hidden_state")
    first = net.node("Gather", [x, net.weight(np.array(0))], axis=1)
    kernel = net.matrix(net.width, net.width, 0.7)
    pooled = net.node("Gemm", [first, net.weight(np.ascontiguousarray(kernel.T)), net.weight(net.around(0.0, 0.1))],
                      transB=1)  # fmt: skip
    net.node("Tanh", [pooled], output="pooler_output")
    shape = (1, _SEQUENCE)
    given = [(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask", "token_type_ids")]
    outputs = [("last_hidden_state", (1, _SEQUENCE, net.width)), ("pooler_output", (1, net.width))]
    return net.model("BERT-base", given, outputs)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "vit_b32": vit_b32,
    "bert_base": bert_base,
}


def inputs(name: str, n: int, seed: int) -> list[dict[str, Array]]:
    """`n` natural-looking samples for the network `name` of `NETS`, each a batch of one.

    Images are smooth with edges and correlated colours, normalized as for ImageNet. Texts have the frequencies of words
    (Zipf), lengths from 24 tokens on, padding behind them, and often two parts.
    """
    rng = np.random.default_rng(seed)
    if name == "bert_base":
        return [_text(rng) for _ in range(n)]
    return [{"image": _image(rng, 224)[None]} for _ in range(n)]


def _image(rng: np.random.Generator, size: int) -> Array:
    """[3, size, size]: noise whose power falls with the square of the frequency, on shapes with edges."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    damping = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / size) ** 1.1
    spectrum = rng.normal(size=(3, size, size // 2 + 1)) + 1j * rng.normal(size=(3, size, size // 2 + 1))
    texture = np.fft.irfft2(spectrum * damping, s=(size, size))
    texture /= texture.std()
    picture = 0.6 * texture[:1] + 0.25 * texture  # light and shade are common to the colours
    y, x = np.mgrid[:size, :size] / size
    for _ in range(int(rng.integers(3, 9))):
        cy, cx, height, width = rng.uniform(0.0, 1.0, 4) * (1.0, 1.0, 0.4, 0.4)
        round_ = rng.random() < 0.5
        inside = np.hypot((y - cy) / (height + 0.02), (x - cx) / (width + 0.02)) < 1.0 if round_ else (
            (abs(y - cy) < height) & (abs(x - cx) < width)
        )  # fmt: skip
        picture = np.where(inside, 0.5 * picture + rng.normal(0.0, 1.0, (3, 1, 1)), picture)
    pixels = np.clip(0.45 + 0.22 * picture, 0.0, 1.0)
    mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return np.asarray((pixels - mean[:, None, None]) / spread[:, None, None], np.float32)


def _text(rng: np.random.Generator) -> dict[str, Array]:
    length = int(rng.integers(24, _SEQUENCE + 1))
    words = np.minimum(rng.zipf(1.2, _SEQUENCE) + 1000, _VOCABULARY - 1)
    words[0], words[length - 1] = 101, 102
    words[length:] = 0
    mask = (np.arange(_SEQUENCE) < length).astype(np.int64)
    second = int(rng.integers(8, _SEQUENCE))
    kinds = ((np.arange(_SEQUENCE) >= second) & (mask == 1)).astype(np.int64)
    return {"input_ids": words[None].astype(np.int64), "attention_mask": mask[None], "token_type_ids": kinds[None]}


class _Net:
    """A graph under construction, with its generator of random numbers."""

    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output or f"{name}_out"], name=name, **attributes))
        return output or f"{name}_out"

    def weight(self, array: Array) -> str:
        name = f"weight_{len(self.initializers)}"
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        self.initializers.append(numpy_helper.from_array(np.asarray(array, kind), name))
        return name

    def normal(self, shape: tuple[int, ...], spread: float) -> Array:
        values: Array = self.rng.standard_normal(shape, np.float32)
        values *= np.float32(spread)
        return values

    def model(
        self,
        title: str,
        given: Sequence[tuple[str, int, tuple[int, ...]]],
        outputs: Sequence[tuple[str, tuple[int, ...]]],
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            title,
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in given],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


class _Convolutional(_Net):
    """Convolutions that are carried out on a few images as they are added, so that their outputs can be scaled."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 13)
        self.seen: dict[str, Array] = {"image": np.stack([_image(self.rng, _PROBE) for _ in range(4)])}
        self.six = [self.weight(np.array(0.0)), self.weight(np.array(6.0))]

    def conv(
        self, x: str, channels: int, size: int, *, stride: int = 1, depthwise: bool = False,
        gamma: float = 1.0, beta: float = -0.3,
    ) -> str:  # fmt: skip
        """A convolution whose channels have means around `beta` and deviations around `gamma`."""
        data = self.seen[x]
        kernel = self.normal((channels, 1 if depthwise else data.shape[1], size, size), 1.0)
        out = _convolve(data, kernel, stride)
        mean, spread = out.mean((0, 2, 3)), out.std((0, 2, 3))
        spread = np.maximum(spread, 0.1 * np.median(spread))  # of channels behind a dead one
        scale = (gamma * np.exp(0.35 * self.rng.standard_normal(channels)) / spread).astype(np.float32)
        shift = (beta * gamma + 0.4 * gamma * self.rng.standard_normal(channels) - mean * scale).astype(np.float32)
        stored = [self.weight(kernel * scale[:, None, None, None]), self.weight(shift)]
        pad = size // 2
        y = self.node("Conv", [x, *stored], kernel_shape=[size, size], strides=[stride, stride],
                      pads=[pad, pad, pad, pad], group=channels if depthwise else 1)  # fmt: skip
        self.seen[y] = out * scale[:, None, None] + shift[:, None, None]
        return y

    def relu(self, x: str) -> str:
        return self._did("Relu", [x], np.maximum(self.seen[x], 0.0))

    def relu6(self, x: str) -> str:
        return self._did("Clip", [x, *self.six], np.clip(self.seen[x], 0.0, 6.0))

    def add(self, a: str, b: str) -> str:
        return self._did("Add", [a, b], self.seen[a] + self.seen[b])

    def max_pool(self, x: str) -> str:
        taps = [tap for tap, _ in _taps(self.seen[x], 3, 2)]
        return self._did("MaxPool", [x], np.max(taps, axis=0), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def finish(self, x: str, title: str) -> onnx.ModelProto:
        features = self.seen[x].mean((2, 3))
        flat = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        kernel = self.normal((1000, features.shape[1]), 1.0) * np.exp(self.normal((1000, 1), 0.15))
        usual = features.mean(0)  # what all images have in common says nothing about their classes
        kernel *= 2.5 / np.sqrt(((features - usual) ** 2).sum(1).mean())
        bias = self.normal((1000,), 0.3) - kernel @ usual
        self.node("Gemm", [flat, self.weight(kernel), self.weight(bias)], "logits", transB=1)
        return self.model(title, [("image", TensorProto.FLOAT, (1, 3, 224, 224))], [("logits", (1, 1000))])

    def _did(self, op: str, given: list[str], result: Array, **attributes: Any) -> str:
        y = self.node(op, given, **attributes)
        self.seen[y] = result
        return y


def _taps(x: Array, size: int, stride: int) -> list[tuple[Array, tuple[int, int]]]:
    """The values under each position of a window of `size`, padded by half of it."""
    pad = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    high, wide = ((s + 2 * pad - size) // stride + 1 for s in x.shape[2:])
    ends = (stride * (high - 1) + 1, stride * (wide - 1) + 1)
    return [
        (padded[:, :, i : i + ends[0] : stride, j : j + ends[1] : stride], (i, j))
        for i in range(size)
        for j in range(size)
    ]


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    total: Any = 0.0
    for tap, (i, j) in _taps(x, kernel.shape[2], stride):
        if kernel.shape[1] == 1:
            total = total + tap * kernel[:, 0, i, j, None, None]
        else:
            total = total + np.moveaxis(np.tensordot(kernel[:, :, i, j], tap, axes=(1, 1)), 0, 1)
    return np.asarray(total, np.float32)


class _Transformer(_Net):
    """Layers of width 768 with 12 heads, for one sample of `tokens`."""

    width = 768
    heads = 12

    def __init__(self, seed: int, *, tokens: int, opset: int) -> None:
        super().__init__(seed, opset)
        self.tokens = tokens
        self.large = self.rng.choice(self.width, 2, replace=False)
        self.numbers: dict[float, str] = {}

    def number(self, value: float) -> str:
        if value not in self.numbers:
            self.numbers[value] = self.weight(np.array(value))
        return self.numbers[value]

    def around(self, mean: float, spread: float) -> Array:
        return self.normal((self.width,), spread) + np.float32(mean)

    def matrix(self, rows: int, columns: int, gain: float) -> Array:
        """[rows, columns]: inputs of mean square 1 become outputs of deviation `gain`."""
        kernel = self.normal((rows, columns), gain / np.sqrt(rows))
        kernel *= np.exp(self.normal((rows, 1), 0.25) - np.float32(0.0625))
        kernel *= np.exp(self.normal((1, columns), 0.25) - np.float32(0.0625))
        return kernel

    def linear(self, x: str, columns: int, gain: float, *, rows: int = 768, mean: float = 0.0, drift: bool = False,
               ) -> str:  # fmt: skip
        """MatMul and Add; `drift`: the bias feeds the large channels of the residual stream."""
        bias = self.normal((columns,), 0.1) + np.float32(mean)
        if drift:
            bias[self.large] += (-2.0, 1.5)
        product = self.node("MatMul", [x, self.weight(self.matrix(rows, columns, gain))])
        return self.node("Add", [self.weight(bias), product])

    def layer_norm(self, x: str, *, written_out: bool = False, large: float = 1.0) -> str:
        gamma = np.exp(self.normal((self.width,), 0.3))
        gamma[self.rng.choice(self.width, 6, replace=False)] *= 4.0
        gamma[self.large] *= 0.25 * large
        scale, shift = self.weight(gamma), self.weight(self.around(0.0, 0.2))
        if not written_out:
            return self.node("LayerNormalization", [x, scale, shift], axis=-1, epsilon=1e-6)
        centred = self.node("Sub", [x, self.node("ReduceMean", [x], axes=[-1])])
        square = self.node("Pow", [centred, self.number(2.0)])
        variance = self.node("Add", [self.node("ReduceMean", [square], axes=[-1]), self.number(1e-12)])
        unit = self.node("Div", [centred, self.node("Sqrt", [variance])])
        return self.node("Add", [self.node("Mul", [unit, scale]), shift])

    def attention(self, x: str, mask: str | None) -> str:
        """Heads apart by Reshape and Transpose, Softmax of scaled products, and heads together again."""
        apart = self.weight(np.array([1, self.tokens, self.heads, self.width // self.heads]))
        q, k, v = (self.node("Reshape", [self.linear(x, self.width, gain), apart]) for gain in (1.5, 1.5, 0.9))
        queries = self.node("Transpose", [q], perm=[0, 2, 1, 3])
        keys = self.node("Transpose", [k], perm=[0, 2, 3, 1])
        values = self.node("Transpose", [v], perm=[0, 2, 1, 3])
        scores = self.node("Div", [self.node("MatMul", [queries, keys]), self.number(8.0)])
        if mask is not None:
            scores = self.node("Add", [scores, mask])
        mixed = self.node("MatMul", [self.node("Softmax", [scores], axis=-1), values])
        rows = self.node("Transpose", [mixed], perm=[0, 2, 1, 3])
        return self.node("Reshape", [rows, self.weight(np.array([1, self.tokens, self.width]))])

    def feed_forward(self, x: str) -> str:
        wide = self.linear(x, 4 * self.width, 1.0, mean=-0.5)
        error = self.node("Erf", [self.node("Div", [wide, self.number(float(np.sqrt(2.0)))])])
        twice = self.node("Mul", [wide, self.node("Add", [error, self.number(1.0)])])
        return self.linear(
            self.node("Mul", [twice, self.number(0.5)]), self.width, 0.8, rows=4 * self.width, drift=True
        )
