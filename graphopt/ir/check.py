"""Is this model well formed? Names, order, operator sets, types: one linear pass over the weightless proto.

What has only one reading is put right on the way: nodes out of order are sorted, attributes without a type
get it from the field that is set, `ai.onnx` becomes the empty domain that it means, and of two equal
initializers of one name, or imports of one operator set, one is kept. All else that is wrong is a ModelError.
"""

from __future__ import annotations

from typing import Any

import onnx

from graphopt.errors import ModelError
from graphopt.ir.order import find_cycle
from graphopt.ir.payloads import Payloads
from graphopt.ir.scope import Checked, GraphCheck, plain_domain, spell

__all__ = ["check"]


def check(proto: onnx.ModelProto, where: str, payloads: Payloads) -> Checked:
    """Check `proto` and put it right in place.

    Raises ModelError; UsageError if the model needs external data and came without a path.
    """
    return _ModelCheck(where, payloads).run(proto)


class _ModelCheck(GraphCheck):
    def run(self, proto: onnx.ModelProto) -> Checked:
        if not 1 <= proto.ir_version <= onnx.IR_VERSION:
            raise self._version("IR version", proto.ir_version, onnx.IR_VERSION)
        if not proto.HasField("graph"):
            raise self.error("has no graph")
        if proto.training_info:
            hint = "export the model for inference"
            raise self.error("has training information, which cannot be kept", hint)
        if not proto.opset_import and proto.ir_version < 3:
            proto.opset_import.add(domain="", version=1)  # what the format says of its first versions
        imports = self._imports(proto.opset_import, "the model")
        for function in proto.functions:
            self.require_text(function.domain, "a function")
            function.domain = plain_domain(function.domain)
            key = (function.domain, function.name, function.overload)
            if key in self.functions:
                raise self.error(f"has two functions {spell(key)}")
            self.functions[key] = set()
        for text in (proto.producer_name, proto.producer_version, proto.domain):
            self.require_text(text, "the model")
        self.texts(proto, "the model")
        free = self.graph(proto.graph, imports, set(), "")
        for name, reader in free.items():
            raise self.dangling(name, reader)
        for function in proto.functions:
            self._function(function)
        self._recursion()
        return self.found

    def _imports(self, opsets: Any, owner: str) -> dict[str, int]:
        for entry in opsets:
            self.require_text(entry.domain, owner)
        imports = {plain_domain(entry.domain): entry.version for entry in opsets}
        if len(imports) != len(opsets):  # the last one counts, as in ONNX Runtime and the ONNX checker
            del opsets[:]
            opsets.extend(onnx.OperatorSetIdProto(domain=d, version=v) for d, v in imports.items())
        for entry in opsets:
            domain = entry.domain = plain_domain(entry.domain)
            known = onnx.defs.onnx_opset_version()
            if domain == "" and not 1 <= entry.version <= known:
                raise self._version("operator set version", entry.version, known)
            if entry.version < 0:
                raise self.error(f"{owner} imports the operator set {domain!r} in version {entry.version}")
        if not imports:
            raise self.error(f"{owner} imports no operator set", "export it again, or add an opset_import")
        return imports

    def _version(self, what: str, found: int, known: int) -> ModelError:
        if found <= 0:
            return self.error(f"has no valid {what}: {found}")
        hint = f"install a newer onnx, or export the model with {what} {known} or lower"
        return self.error(f"has {what} {found}; onnx {onnx.__version__} knows up to {known}", hint)

    def _function(self, function: onnx.FunctionProto) -> None:
        key = (function.domain, function.name, function.overload)
        owner = f"function {spell(key)}"
        for text in (*key, *function.attribute):
            self.require_text(text, owner)
        imports = self._imports(function.opset_import, owner)
        local: dict[str, int] = {}
        self.declare(local, function.input, f"input of {owner}")
        for attribute in function.attribute_proto:
            self.attribute(attribute, owner, imports, self.functions[key])
        free = self.nodes(function.node, local, imports, self.functions[key], f" in {owner}")
        for name, reader in free.items():
            raise self.dangling(name, reader)
        for name in function.output:
            if name not in local:
                raise self.error(f"nothing in {owner} produces its output {name!r}")
        self.infos(function.value_info)
        self.texts(function, owner)

    def _recursion(self) -> None:
        """Functions must not call themselves, directly or through others."""
        keys = list(self.functions)
        number = {key: index for index, key in enumerate(keys)}
        cycle = find_cycle([{number[callee] for callee in self.functions[key]} for key in keys])
        if cycle:
            names = [spell(keys[index]) for index in (cycle[0], *reversed(cycle[1:]))]
            raise self.error(f"functions call each other in a cycle: {' -> '.join([*names, names[0]])}")
