"""Where values come from and where they go: graph inputs, constants, other nodes, other readers.

A rule must be right at the boundary of a graph and inside of it, beside other readers, and with constants
that are initializers, nodes, shared, or defaults that a caller may override.
"""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.check.choose import Leaf, Number
from graphopt.check.contents import Array, Kind
from graphopt.check.dtypes import FLOATS, takes
from graphopt.check.sizes import Shape, Size
from graphopt.check.values import Value

_SYMBOLIC = 0.75  # of the sizes of a sample with symbolic ones
_NEGATED = FLOATS - {TensorProto.BFLOAT16} | {TensorProto.INT64, TensorProto.INT32, TensorProto.INT8}
_AS_CONSTANT = 0.85  # that a size which a constant has is not symbolic
_SHARED = 0.08  # that an interior value has another reader
_DEFAULTS = 0.1  # share of samples in which constants may be defaults of graph inputs
_HIDDEN = 0.1  # share of samples in which operands may have a rank that nobody knows
_CONSTANT, _ALONE = 0.18, 0.03  # of tensors that may vary are constant all the same; of the only one of a pattern
_FIXED = 0.75  # share of samples in which most of what says what an operator does is constant
_MOST_DIMS, _MOST_ELEMENTS = 5, 1 << 12


class Places:
    """The graph around the pattern: what its leaves are, and what else reads its values.

    `dynamic`: sizes with a name are symbolic in graph inputs. `interior`: other nodes are around the pattern.
    `variety`: constants are nodes, or defaults of graph inputs. `single`: the pattern has one operand that may vary.
    """

    def __init__(
        self, rng: Random, opset: int, *, dynamic: bool, interior: bool, variety: bool, single: bool = False
    ) -> None:
        self._rng, self._opset = rng, opset
        self._constants = _ALONE if single else _CONSTANT
        self._hidden = interior and rng.random() < _HIDDEN
        self._fixed, self._defaults = rng.random() < _FIXED, variety and rng.random() < _DEFAULTS
        self.dynamic, self._interior, self._variety = dynamic, interior, variety
        self.nodes: list[onnx.NodeProto] = []  # before the pattern
        self.after: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []  # there once all sources are known
        self.outputs: list[Value] = []
        self.feeds: dict[str, Array] = {}
        self.notes: list[str] = []
        self._names: set[str] = set()
        self._given: list[tuple[str, int, Shape]] = []  # graph inputs
        self._symbolic: dict[str, bool] = {}
        self._sizes: dict[int, Size] = {}  # that graph inputs have

    def name(self, wish: str) -> str:
        """A name that no other value has."""
        found, count = wish, 1
        while found in self._names:
            count += 1
            found = f"{wish}_{count}"
        self._names.add(found)
        return found

    # -- sources -------------------------------------------------------------------------------------

    def source(self, operand: Leaf | Number, array: Array, shape: Shape, kind: Kind, is_content: bool) -> Value:
        """Make a leaf or number a value: a constant, a graph input, or what a node computes.

        `is_content`: it says what an operator does, as a Reshape's target, and so is a constant more often.
        """
        name = self.name(operand.name.replace("[", "_").replace("]", "") if isinstance(operand, Leaf) else "number")
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        chance, how = self._rng.random(), self._rng.random()
        if isinstance(operand, Number) or operand.const:
            self._constant(name, array, chance, overridable=isinstance(operand, Leaf) and not is_content)
            self._fix(shape)
        elif chance < ((0.95 if self._fixed else 0.2) if is_content else self._constants):
            self._constant(name, array, 1.0, overridable=False)
            self._fix(shape)
        elif self._interior and chance > (0.55 if is_content else 0.7):
            return self._computed(name, dtype, array, shape, kind, how, is_content)
        else:
            self._input(name, dtype, array, shape)
            return Value(name, dtype, shape, array)
        return Value(name, dtype, tuple(map(int, shape)), array)

    def _constant(self, name: str, array: Array, chance: float, overridable: bool) -> None:
        tensor = numpy_helper.from_array(array, name)
        odd = self._variety and chance < 0.33
        if odd and overridable and self._defaults:
            self._given.append((name, tensor.data_type, array.shape))
            if tensor.data_type in FLOATS and chance > 0.15:
                self.feeds[name] = np.asarray(array * np.asarray(0.5, array.dtype)).astype(array.dtype)
            self.notes.append(f"{name} is the default of a graph input")
        elif odd and takes("Constant", self._opset, tensor.data_type):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            return
        self.initializers.append(tensor)

    def _computed(
        self, name: str, dtype: int, array: Array, shape: Shape, kind: Kind, how: float, is_content: bool
    ) -> Value:
        given = self.name(f"{name}_in")
        if is_content and _is_shape(array):
            known = dict(self._sizes)
            sizes = tuple(known.pop(n, n) for n in array.tolist())  # each name once: others are equal by accident
            self._input(given, TensorProto.FLOAT, np.zeros(array.tolist(), np.float32), sizes)
            self.nodes.append(helper.make_node("Shape", [given], [name]))
            self.notes.append(f"{name} is a Shape")
            return Value(name, dtype, tuple(map(int, shape)), array)
        if how < 0.4 and self._hidden and array.size and takes("Reshape", self._opset, dtype):
            return self._of_unknown_rank(name, given, dtype, array, shape)
        op = "Identity"
        changed = kind != "nonzero" and not is_content and dtype not in (TensorProto.BFLOAT16, TensorProto.BOOL)
        if changed and how > 0.45:
            op = "Neg" if how > 0.7 and kind == "any" and dtype in _NEGATED else "Abs"
        if not takes(op, self._opset, dtype):
            self._input(name, dtype, array, shape)
            return Value(name, dtype, shape, array)
        self._input(given, dtype, array, shape)
        self.nodes.append(helper.make_node(op, [given], [name]))
        self.notes.append(f"{name} comes from {op}")
        return Value(name, dtype, shape, array if is_content else None)

    def _of_unknown_rank(self, name: str, given: str, dtype: int, array: Array, shape: Shape) -> Value:
        target = self.name(f"{name}_shape")
        self._input(given, dtype, array, shape)
        self._given.append((target, TensorProto.INT64, (Size(array.ndim, ""),)))
        self.feeds[target] = np.array(array.shape, np.int64)
        self.nodes.append(helper.make_node("Reshape", [given, target], [name]))
        self.notes.append(f"{name} has an unknown rank")
        return Value(name, dtype, shape, None)

    def _input(self, name: str, dtype: int, array: Array, shape: Shape) -> None:
        self._given.append((name, dtype, shape))
        self.feeds[name] = array
        for size in shape:
            if isinstance(size, Size):
                self._sizes.setdefault(int(size), size)

    def _fix(self, shape: Shape) -> None:
        """A size that a constant has is mostly no symbolic one."""
        for size in shape:
            if isinstance(size, Size) and self._rng.random() < _AS_CONSTANT:
                self._symbolic.setdefault(size.name, False)

    def _dim(self, size: int) -> int | str | None:
        if not isinstance(size, Size):
            return int(size)
        if not size.name:
            return None
        if size.name not in self._symbolic:
            self._symbolic[size.name] = self._rng.random() < _SYMBOLIC
        return size.name if self._symbolic[size.name] and self.dynamic else int(size)

    # -- readers -------------------------------------------------------------------------------------

    def finish(self, results: list[Value], inner: list[Value], extra: list[Value]) -> None:
        """Say who reads what the pattern makes: the graph's caller, other nodes, or both.

        `inner` are values within the pattern, `extra` further outputs of its nodes.
        """
        for name, dtype, shape in self._given:
            self.inputs.append(helper.make_tensor_value_info(name, dtype, [self._dim(s) for s in shape]))
        for value in results:
            chance = self._rng.random() if self._interior else 0.0
            if chance < 0.7 or chance > 0.88:
                self.outputs.append(value)
            if chance > 0.7:
                self._read(value, "the result")
        chance = self._rng.random()
        if self._interior and inner and chance < _SHARED:
            value = inner[int(chance / _SHARED * len(inner))]
            if self._rng.random() < 0.5:
                self.outputs.append(value)
                self.notes.append(f"{value.name} is a graph output, too")
            else:
                self._read(value, f"the interior {value.name}")
        for value in extra:
            if self._interior and self._rng.random() < 0.5:
                self.outputs.append(value)
        chance = self._rng.random()
        if self._variety and self._interior and self.initializers and chance < 0.06:
            tensor = self.initializers[int(chance / 0.06 * len(self.initializers))]
            array = numpy_helper.to_array(tensor)
            self._read(Value(tensor.name, tensor.data_type, array.shape, None), f"the constant {tensor.name}")

    def _read(self, value: Value, what: str) -> None:
        op = "Neg" if value.dtype in _NEGATED and takes("Neg", self._opset, value.dtype) else "Identity"
        if not takes(op, self._opset, value.dtype):
            self.outputs.append(value)
            return
        name = self.name(f"{value.name}_read")
        self.after.append(helper.make_node(op, [value.name], [name]))
        self.outputs.append(Value(name, value.dtype, value.shape, None))
        self.notes.append(f"{what} is read by {op}")


def _is_shape(array: Array) -> bool:
    """Whether an integer tensor may be what Shape gives."""
    if array.dtype != np.int64 or array.ndim != 1 or array.size > _MOST_DIMS or not array.size:
        return False
    return bool(array.min() >= 0 and array.max() <= _MOST_ELEMENTS and np.prod(array) <= _MOST_ELEMENTS)
