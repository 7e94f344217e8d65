"""What the packs share: the domain, and the limits of its kernels."""

from __future__ import annotations

from graphopt import Domain, DType, Tensor, require

ms = Domain("com.microsoft")


def require_float(*operands: Tensor) -> None:
    """The kernels on a processor are for float32, with few exceptions."""
    require(all(x.dtype == DType.FLOAT for x in operands), "the kernel is for float32")


def require_vector(x: Tensor, like: Tensor) -> None:
    """`x` has one axis, which is the last one of `like`."""
    require(x.rank == 1, "an operand has not one axis")
    require(like.rank > 0, "an operand is a single number")
    size = like.shape[-1]
    require(size is not None and x.shape == (size,), "an operand is not as long as the last axis")


def require_skip_kernel(x: Tensor, skip: Tensor, scale: Tensor, beta: Tensor | None) -> None:
    """What the kernels take that add two tensors and normalize the sum along its last axis."""
    require(x.dtype in (DType.FLOAT, DType.FLOAT16, DType.DOUBLE), "there is no kernel for this dtype")
    require(x.rank in (2, 3), "the sum has neither two nor three axes")
    require(None not in x.shape, "the shape of the sum is not known")
    require(0 not in x.shape, "an operand is empty")
    width = x.shape[-1]  # there may be no rows, but there must be something to normalize
    require(isinstance(width, int) and width > 0, "the size that is normalized is not known")
    for vector in (scale, beta):
        if vector is not None:
            require_vector(vector, x)
    rows = x.shape[-2:]
    same = skip.shape == x.shape or (x.rank == 3 and skip.shape in (rows, (1, *rows)))
    require(same, "the operands of the sum differ in shape")
