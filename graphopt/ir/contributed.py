"""Types of what ONNX Runtime's own operators give, which onnx has no schemas of.

Two of them are in the standard domain: its layer normalization is older than that of ONNX, and takes any opset.

After the operators' documentation (docs/ContribOperators.md of ONNX Runtime). Each function gets a `Site` and
returns the shapes of the outputs; the dtype is that of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir import spatial
from graphopt.ir.dims import Shape
from graphopt.ir.shapes import matrix_product
from graphopt.ir.site import Site

CONTRIBUTED = "com.microsoft"

Shapes = Sequence[Shape | None]


def output_shapes(op: str, site: Site) -> tuple[int, Shapes] | None:
    """Which input has the dtype of the outputs, and their shapes; None for an operator that is not known here.

    Of an output behind the first whose shape is None the dtype is not known either.
    """
    known = _RULES.get(op)
    if known is None:
        return None
    typed_by, rule = known
    try:
        return typed_by, rule(site)
    except (OverflowError, IndexError):
        return typed_by, ()


def _same(site: Site) -> Shapes:
    return [site.shape(0)]


def _embedded(site: Site) -> Shapes:
    ids, words = site.shape(0), site.shape(2)
    if ids is None or words is None or len(words) != 2:
        return ()
    shape = (*ids, words[1])
    return [shape, None, shape]


def _joint_attention(site: Site) -> Shapes:
    """Attention whose queries, keys and values have their weights side by side in one matrix."""
    shape, weights, sizes = site.shape(0), site.shape(1), site.attr("qkv_hidden_sizes")
    if shape is None or weights is None or len(shape) != 3 or len(weights) != 2:
        return ()
    if sizes:
        return [(*shape[:2], sizes[2])]
    return [(*shape[:2], weights[1] // 3 if isinstance(weights[1], int) else None)]


def _skip_norm(site: Site) -> Shapes:
    return [site.shape(0), None, None, site.shape(0)]


def _matmul(site: Site) -> Shapes:
    a, b = site.shape(0), site.shape(1)
    if a is None or b is None:
        return ()
    return matrix_product(_turned(a, site, "A"), _turned(b, site, "B"))


def _plain_matmul(site: Site) -> Shapes:
    a, b = site.shape(0), site.shape(1)
    return () if a is None or b is None else matrix_product(a, b)


def _turned(shape: Shape, site: Site, side: str) -> Shape:
    """The shape that a matrix operand has once FusedMatMul has transposed it."""
    if len(shape) < 2:
        return shape
    if site.attr(f"transBatch{side}", 0) and len(shape) > 2:
        shape = (*shape[1:-1], shape[0], shape[-1])
    if site.attr(f"trans{side}", 0):
        shape = (*shape[:-2], shape[-1], shape[-2])
    return shape


def _conv(site: Site) -> Shapes:
    """As Conv; sizes that are numbers are worked out here, for nobody else does."""
    shape, weight = site.shape(0), site.shape(1)
    (found,) = spatial.conv(site) or (None,)
    if shape is None or weight is None or found is None:
        return ()
    count = len(weight) - 2
    strides, pads = site.attr("strides") or [1] * count, site.attr("pads") or [0] * 2 * count
    dilations, auto = site.attr("dilations") or [1] * count, site.attr("auto_pad", "NOTSET")
    result = list(found)
    for i, (size, window) in enumerate(zip(shape[2:], weight[2:], strict=True)):
        if isinstance(size, int) and isinstance(window, int):
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                result[2 + i] = -(-size // strides[i])
            else:
                room = 0 if auto == "VALID" else pads[i] + pads[i + count]
                result[2 + i] = (size + room - (window - 1) * dilations[i] - 1) // strides[i] + 1
    return [tuple(result)]


def _gemm(site: Site) -> Shapes:
    a, b = site.shape(0), site.shape(1)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return ()
    return [(a[1 if site.attr("transA", 0) else 0], b[0 if site.attr("transB", 0) else 1])]


def _heads(site: Site) -> Shapes:
    """Attention on operands whose heads lie side by side in the last axis."""
    query, value = site.shape(0), site.shape(2)
    if query is None or value is None or len(query) != 3 or len(value) != 3:
        return ()
    return [(*query[:2], value[2])]


_RULES: dict[str, tuple[int, Callable[[Site], Shapes]]] = {
    "Attention": (0, _joint_attention),
    "BiasGelu": (0, _same),
    "EmbedLayerNormalization": (2, _embedded),
    "FastGelu": (0, _same),
    "Gelu": (0, _same),
    "LayerNormalization": (1, _same),
    "QuickGelu": (0, _same),
    "RotaryEmbedding": (0, _same),
    "SimplifiedLayerNormalization": (1, _same),
    "SkipLayerNormalization": (0, _skip_norm),
    "SkipSimplifiedLayerNormalization": (0, _skip_norm),
    "FusedConv": (0, _conv),
    "FusedGemm": (0, _gemm),
    "FusedMatMul": (0, _matmul),
    "DynamicQuantizeMatMul": (0, _plain_matmul),
    "MatMulIntegerToFloat": (2, _plain_matmul),
    "MultiHeadAttention": (0, _heads),
    "QuantizeLinear": (2, _same),
    "DequantizeLinear": (1, _same),
}
