"""Weights alone in integers: activations and arithmetic stay what they are, the file and the memory traffic shrink.

A product with a constant matrix reads it through a DequantizeLinear, with a scale for each column or, from opset 21
on, for each block of a column; ONNX Runtime makes MatMulNBits of that when it loads the model, and for targets of it
the operator is written at once. Tables of embeddings are gathered as integers, and what was gathered becomes float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as oir

from graphopt.ir.contributed import CONTRIBUTED
from graphopt.ir.draft import Decline
from graphopt.quant.blocks import Blocks, packed
from graphopt.quant.correct.matrices import MatrixCorrections
from graphopt.quant.dense import ConstantCache, Dense, dense_of
from graphopt.quant.insert import Placed
from graphopt.quant.ranges import weight_peaks, weight_scale
from graphopt.quant.recurrent import stored_weights
from graphopt.quant.types import BLOCK_OPSET, CHANNEL_OPSET

if TYPE_CHECKING:
    from graphopt.ir.edit import Editor, Rewrite
    from graphopt.ir.value import Node, Value
    from graphopt.targets.kinds import KindTable

__all__ = ["WEIGHT_OPS", "WeightsOnly", "default_block", "opset_of_weights"]

Array = np.ndarray[Any, Any]

WEIGHT_OPS = frozenset({"MatMul", "Gemm", "Gather", "LSTM", "GRU"})
_OPSET_HALF = 19  # of scales in float16
_BY, _EMBEDDING = "quant.weight_only", "quant.embedding"
_ACCURACY_LEVEL = 4  # MatMulNBits may round its input to int8 by blocks: in float it takes up to ten times as long
_MIN_TABLE = 4096  # elements of a table that is worth three more nodes
_BLOCK_OF_COLUMN = 32  # what MatMulNBits makes of a column with one scale


def default_block(dtype: str, table: KindTable, k: int) -> int:
    """Rows that share a scale where nobody says: 32 for 4 bits, which need it, or what the target has; else a column,
    or what is fast.

    MatMulNBits stores whole blocks: they are halved until at most an eighth of a column with `k` rows is padding.
    """
    if table.weights != CONTRIBUTED:
        if not dtype.endswith("4"):
            return 0
        sizes = table.stored.get(dtype) or (32,)
        return next((size for size in sizes if k % size == 0), sizes[-1])
    block = 32 if dtype.endswith("4") else 128
    while block > 16 and -(-k // block) * block > k * 9 / 8:
        block //= 2
    return block


def opset_of_weights(form: str, dtype: str, block: int | None) -> int:
    """The opset that stored weights need, at least; 0 for what no opset limits."""
    if form == CONTRIBUTED:
        return 0 if block is None or block or dtype.endswith("4") else CHANNEL_OPSET
    return BLOCK_OPSET if dtype.endswith("4") or block else CHANNEL_OPSET


class WeightsOnly:
    """Converts operators one by one. `dtype` and `block` as in `in_blocks`; `block` None for `default_block`.

    `corrections`: how the matrices of products are rounded; without, to the nearest.
    """

    def __init__(
        self,
        edit: Editor,
        table: KindTable,
        *,
        dtype: str = "int8",
        block: int | None = None,
        corrections: MatrixCorrections | None = None,
    ) -> None:
        self._edit, self._table, self._dtype, self._given = edit, table, dtype, block
        self._corrections = corrections or MatrixCorrections(())
        self._opset = edit.model.opset()
        self._constants = ConstantCache()

    def convert(self, node: Node) -> Placed:
        """Store the weight of one operator in integers. Raises `Decline` with the reason why it stays float."""
        if node.op == "Gather":
            return self._embedding(node)
        if node.op in ("LSTM", "GRU"):
            return stored_weights(node, self._edit)
        found = dense_of(node, self._edit, ("FLOAT", "FLOAT16"))
        if isinstance(found, str):
            raise Decline(found)
        block = default_block(self._dtype, self._table, found.k) if self._given is None else self._given
        if self._table.weights == CONTRIBUTED and (block or self._dtype.endswith("4")):
            self._packed(found, block)
        else:
            self._dequantized(found, block)
        return Placed("weight", found.stored.name, self._dtype, 0.0, found.n, f"weight of {node.op}, stored only")

    def _rounded(self, dense: Dense, block: int) -> Blocks:
        if not np.isfinite(dense.matrix()).all():
            raise Decline("its weight holds NaN or Inf")
        return self._corrections.blocks(dense, self._dtype, block)

    def _packed(self, dense: Dense, block: int) -> None:
        """com.microsoft.MatMulNBits."""
        node = dense.node
        row = dense.row_bias()
        self._edit.model.ir.opset_imports.setdefault(CONTRIBUTED, 1)
        attrs = {
            "K": dense.k, "N": dense.n, "bits": 4 if self._dtype.endswith("4") else 8,
            "block_size": block or _BLOCK_OF_COLUMN, "accuracy_level": _ACCURACY_LEVEL,
        }  # fmt: skip
        with self._edit.rewrite(_BY, at=node) as rw:
            main = self._edit.model.main
            operands = [dense.data(rw), *self._constants.get(dense, main, lambda: self._blob(rw, dense, block))]
            if row is not None and row.any():
                operands += [None, rw.constant(row.astype(_numpy(dense.x)), f"{node.name}_bias")]
            (made,) = rw.node("MatMulNBits", operands, attrs, domain=CONTRIBUTED, assume=node.outputs[0])
            rw.replace(node.outputs[0], made if row is not None else dense.add_bias(rw, made))

    def _blob(self, rw: Rewrite, dense: Dense, block: int) -> tuple[Value | None, ...]:
        name, main = dense.stored.name, self._edit.model.main
        stored, scale, zero = packed(self._rounded(dense, block), block or _BLOCK_OF_COLUMN)
        return (
            rw.constant(stored, f"{name}_{self._dtype}", graph=main),
            rw.constant(scale.astype(_numpy(dense.x)), f"{name}_scale", graph=main),
            None if zero is None else rw.constant(zero, f"{name}_zero_point", graph=main),
        )

    def _dequantized(self, dense: Dense, block: int) -> None:
        """DequantizeLinear in front of a MatMul or Gemm, which reads its weight as [K, N]."""
        node = dense.node
        if block and dense.k % block and self._table.stored:
            raise Decline(f"its weight has {dense.k} rows, and they are no multiple of {block}")
        self._check_opset(dense, block)
        with self._edit.rewrite(_BY, at=node) as rw:
            operands = self._constants.get(dense, node.graph, lambda: self._integers(rw, dense, block))
            scale = operands[1]
            assert scale is not None
            attrs = {"axis": 1} if scale.rank == 1 else {"axis": 0, "block_size": block}
            (real,) = rw.node("DequantizeLinear", operands, attrs)
            if dense.bias is not None and not dense.turned and dense.beta == 1.0 and dense.bias.shape == (dense.n,):
                (made,) = rw.node("Gemm", [dense.x, real, dense.bias])
            else:  # a Gemm of another kind would multiply in float, with weights that are made anew each time
                (product,) = rw.node("MatMul", [dense.data(rw), real])
                made = dense.add_bias(rw, product)
            rw.replace(node.outputs[0], made)

    def _check_opset(self, dense: Dense, block: int) -> None:
        half = dense.x.dtype is not None and dense.x.dtype.name == "FLOAT16"
        blocked = self._dtype.endswith("4") or 0 < block < dense.k
        needed = BLOCK_OPSET if blocked else _OPSET_HALF if half else CHANNEL_OPSET
        if self._opset < needed:
            what = "4-bit weights and blocks need" if blocked else "a scale per column needs"
            raise Decline(f"{what} opset {needed}, and the model has {self._opset}: put opset{{to={needed}}} in front")

    def _integers(self, rw: Rewrite, dense: Dense, block: int) -> tuple[Value | None, ...]:
        """What DequantizeLinear reads: one scale for a column is a vector, blocks have a matrix of them.

        A block that is a column is one, too, unless the target is particular about blocks. All lie in the graph of the
        product: ONNX Runtime makes a MatMulNBits of it, and looks for them there alone.
        """
        blocks, name = self._rounded(dense, block), dense.stored.name
        column = blocks.block >= dense.k and not (block and self._table.stored)
        shape = (-1,) if column else blocks.scale.shape
        return (
            rw.constant(_tensor(blocks.integers, blocks.dtype), f"{name}_{blocks.dtype}"),
            rw.constant(blocks.scale.reshape(shape).astype(_numpy(dense.x)), f"{name}_scale"),
            None if blocks.zero is None
            else rw.constant(_tensor(blocks.zero.reshape(shape), blocks.dtype), f"{name}_zero_point"),
        )

    def _embedding(self, node: Node) -> Placed:
        """A table [rows, width] of which rows are gathered: int8 with a scale for each row, gathered as well."""
        table, indices = self._table_of(node)
        array = table.content()
        if not np.isfinite(array).all():
            raise Decline("its table holds NaN or Inf")
        scale = weight_scale(weight_peaks(array, 0))[:, None]
        integers = np.rint(array / scale).astype(np.int8)
        with self._edit.rewrite(_EMBEDDING, at=node) as rw:
            stored = rw.constant(integers, f"{table.name}_int8")
            scales = rw.constant(scale, f"{table.name}_scale")
            (rows,) = rw.node("Gather", [stored, indices])
            (reals,) = rw.node("Cast", [rows], {"to": 1})
            (factors,) = rw.node("Gather", [scales, indices])
            (made,) = rw.node("Mul", [reals, factors])
            rw.replace(node.outputs[0], made)
        return Placed("weight", table.name, "int8", float(scale.max()), int(scale.size), "rows of an embedding")

    def _table_of(self, node: Node) -> tuple[Value, Value]:
        table, indices = (*node.inputs, None, None)[:2]
        if table is None or indices is None or not table.is_const:
            raise Decline("what it gathers from is no constant")
        if node.graph.is_function or self._edit.protects(node) or self._edit.protects(table):
            raise Decline("it is protected, or stands in a function")
        if table.dtype is None or table.dtype.name != "FLOAT" or table.rank != 2 or node.attr("axis", 0) not in (0, -2):
            raise Decline("it gathers no rows of a float32 matrix")
        if (table.nbytes or 0) < 4 * _MIN_TABLE:
            raise Decline("its table is small")
        return table, indices


def _numpy(value: Value) -> Any:
    return np.float16 if value.dtype is not None and value.dtype.name == "FLOAT16" else np.float32


def _tensor(integers: Array, dtype: str) -> oir.TensorProtocol:
    """Integers as a tensor of an ONNX type that NumPy may not have."""
    kind = oir.DataType[dtype.upper()]
    return oir.Tensor(np.ascontiguousarray(integers.astype(kind.numpy())), dtype=kind)
