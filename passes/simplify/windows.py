"""Pools, resizes and dropouts that let every element through as it is."""

from __future__ import annotations

from graphopt_passes.simplify.reading import result_shape, same_sizes

from graphopt import Node, Tensor, op, require, rule


def _dropout(x: Tensor, ratio: Tensor | None, training: Tensor | None, n: Node) -> Tensor:
    return n.bind(op.Dropout(x, ratio, training, ...))


def _pool(x: Tensor, n: Node) -> Tensor:
    return n.bind(op.any("AveragePool", "MaxPool")(x, ...))


def _resize(x: Tensor, roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None, n: Node) -> Tensor:
    return n.bind(op.Resize(x, roi, scales, sizes, ...))


@rule(_dropout, accuracy="exact", single_use=False)
def dropout_inference(x: Tensor, ratio: Tensor | None, training: Tensor | None, n: Node) -> Tensor:  # noqa: ARG001
    """Outside of training, Dropout drops nothing."""
    if n.version < 7:
        require(n.attr("is_test", 0) == 1, "it drops at random")
    elif n.version >= 12 and training is not None:
        require(training.is_const and not training.scalar, "it may be in training")
    require(not any(o.use_count for o in n.outputs[1:]), "its mask is used")
    return x


@rule(_pool, accuracy="fast", single_use=False, shapes={"x": "N C H W"})
def pool_of_one(x: Tensor, n: Node) -> Tensor:
    """The mean and the largest element of a window of one finite element is that element, up to the sign of a zero."""
    # Some kernels of ONNX Runtime, by shape and opset, make the lowest number of NaN and -∞, and 0 of -0.
    window, strides, pads = (n.attr(name) for name in ("kernel_shape", "strides", "pads"))
    require(isinstance(window, list | tuple) and set(window) <= {1}, "the window is larger than 1")
    require(strides is None or set(strides) <= {1}, "some elements are left out")
    require(pads is None or not any(pads), "something is padded")
    require(not any(o.use_count for o in n.outputs[1:]), "its indices are used")
    return x


@rule(_resize, accuracy="exact", single_use=False)
def resize_noop(
    x: Tensor, roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None, n: Node  # noqa: ARG001
) -> Tensor:
    """A Resize to the nearest elements by a factor of 1 changes nothing."""
    require(n.version >= 11, "Resize of opset 10 is left alone")
    require(n.attr("mode", "nearest") == "nearest", "interpolation may make NaN of an infinite neighbour")
    mode = n.attr("coordinate_transformation_mode", "half_pixel")
    require(mode not in ("tf_crop_and_resize", "tf_half_pixel_for_nn"), "it crops, or shifts by half an element")
    require(n.attr("keep_aspect_ratio_policy", "stretch") == "stretch", "the scales follow from the aspect ratio")
    require(same_sizes(x.shape, result_shape(n)), "the shape changes")
    require(_is_by_one(scales, sizes), "the scales are not all 1")
    return x


def _is_by_one(scales: Tensor | None, sizes: Tensor | None) -> bool:
    """Whether a Resize that keeps the shape does so by factors of exactly 1. An empty operand counts as left out."""
    if sizes is not None and sizes.shape not in ((0,), (None,)):
        return True
    given = None if scales is None else scales.value.array()
    return given is not None and given.size > 0 and bool((given == 1).all())


def _upsample(x: Tensor, s: Tensor | None, n: Node) -> Tensor:
    return n.bind(op.any("Upsample", "Resize")(x, s, ...))


@rule(_upsample, accuracy="exact", single_use=False, shapes={"x": "N C H W"})
def upsample_noop(x: Tensor, s: Tensor | None, n: Node) -> Tensor:
    """An Upsample to the nearest elements by a factor of 1 changes nothing; so does Resize of opset 10."""
    require(n.op == "Upsample" or n.version == 10, "it is another Resize")
    require(n.attr("mode", "nearest") == "nearest", "interpolation may make NaN of an infinite neighbour")
    scales = n.attr("scales") if s is None else s.value.array()
    require(scales is not None and all(i == 1 for i in scales), "the scales are not all 1")
    return x


@rule(_resize, accuracy="fast", single_use=False)
def resize_noop_finite(
    x: Tensor, roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None, n: Node  # noqa: ARG001
) -> Tensor:
    """A Resize that interpolates between finite elements by a factor of 1 changes nothing."""
    require(n.version >= 11, "Resize of opset 10 is another one")
    mode = n.attr("coordinate_transformation_mode", "half_pixel")
    require(mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"), "it crops")
    require(mode != "pytorch_half_pixel" or 1 not in x.shape, "an axis of size 1 is shifted by half an element")
    require(n.attr("keep_aspect_ratio_policy", "stretch") == "stretch", "the scales follow from the aspect ratio")
    require(same_sizes(x.shape, result_shape(n)), "the shape changes")
    require(_is_by_one(scales, sizes), "the scales are not all 1")
    return x


@rule(lambda x: op.GlobalAveragePool(x), accuracy="close", single_use=False, shapes={"x": "N C 1 1"})
def global_average_of_one(x: Tensor) -> Tensor:
    """The mean of one element is that element, up to the sign of a zero."""
    require(set(x.shape[2:]) <= {1}, "there may be several elements")
    return x


@rule(lambda x: op.GlobalMaxPool(x), accuracy="fast", single_use=False, shapes={"x": "N C 1 1"})
def global_maximum_of_one(x: Tensor) -> Tensor:
    """The largest of one finite element is that element."""
    require(set(x.shape[2:]) <= {1}, "there may be several elements")
    return x
