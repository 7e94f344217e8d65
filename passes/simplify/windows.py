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
    given = None if scales is None else scales.value.array()
    exact = sizes is not None or (given is not None and bool((given == 1).all()))
    require(exact, "the scales are not all 1")
    return x
