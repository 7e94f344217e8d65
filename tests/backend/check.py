"""One backend test: optimized as it is, and with inputs made constants, then run against what is expected."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

import graphopt
from graphopt.errors import GraphoptError
from graphopt.runtime.executor import ExecutorError, executor
from graphopt.verify.compare import compare
from tests.backend.cases import Case
from tests.backend.run import Results

_TIMEOUT = 20.0
_RUNNERS = ("by_runtime", "by_reference")

Kind = Literal["same", "not run", "wrong"]


@dataclass(frozen=True)
class Answer:
    """`same`; `not run`: neither executor computes of the original what is expected; `wrong`, and why."""

    kind: Kind
    form: str
    why: str = ""
    rewrites: int = 0


def check(case: Case, level: str = "O3", target: str = "onnx") -> list[Answer]:
    """The answers for the case as it is, with all inputs but the first constant, and with all of them constant."""
    return [_check(form, one, level, target) for form, one in forms(case)]


def forms(case: Case) -> Iterator[tuple[str, Case]]:
    yield "as it is", case
    if case.plain and case.inputs and all(v.type.HasField("tensor_type") for v in case.model.graph.input):
        names = [v.name for v in case.model.graph.input if v.name in case.inputs]
        if len(names) > 1:
            yield "but for the first, constant", _frozen(case, names[1:])
        yield "constant", _frozen(case, names)


def _frozen(case: Case, names: list[str]) -> Case:
    """The case with these inputs as initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)
    kept = [v for v in model.graph.input if v.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name in names:
        array = np.asarray(case.inputs[name])
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return replace(case, model=model, inputs={n: a for n, a in case.inputs.items() if n not in names})


def _check(form: str, case: Case, level: str, target: str) -> Answer:
    try:
        onnx.checker.check_model(case.model)
    except onnx.checker.ValidationError:
        return Answer("not run", form, "onnx refuses it")
    try:
        result = graphopt.optimize(case.model, level, target=target, verify=False)
    except GraphoptError as error:
        return Answer("wrong", form, f"refused: {error}")
    after, rewrites = result.model, result.report.rewrites
    answer = functools.partial(Answer, form=form, rewrites=rewrites)
    try:
        onnx.checker.check_model(after)  # some tests have shapes that its inference would refuse if it saw them
    except Exception as error:
        return answer("wrong", why=f"no valid model: {error}")
    if [(v.name, v.type) for v in case.model.graph.output] != [(v.name, v.type) for v in after.graph.output]:
        return answer("wrong", why="other outputs")
    reasons = []
    for runner in _RUNNERS:
        why = _differs(_run(runner, case.model, case.inputs), case)
        if why is None:
            found = _run(runner, after, case.inputs)
            why = _differs(found, case)
            if why is None or _is_as_runtime(found, case):
                return answer("same")
            return answer("wrong", why=f"{runner}: {why}")
        reasons.append(why)
    return answer("not run", why="; ".join(reasons))


def _is_as_runtime(found: Results, case: Case) -> bool:
    """Whether it is what ONNX Runtime, which computes constants, makes of the original."""
    without = _run("by_runtime", case.model, case.inputs)
    return not isinstance(without, str) and _differs(found, replace(case, expected=without)) is None


def _run(runner: str, model: onnx.ModelProto, inputs: dict[str, Any]) -> Results:
    names = {v.name for v in model.graph.input}
    given = {name: value for name, value in inputs.items() if name in names}
    try:
        found: Results = executor().call(f"tests.backend.run:{runner}", model.SerializeToString(), given, timeout=_TIMEOUT)
    except ExecutorError as error:
        return error.what
    return found


def _differs(results: Results, case: Case) -> str | None:
    if isinstance(results, str):
        return results
    for name, expected in case.expected.items():
        why = _unlike(expected, results.get(name), case)
        if why is not None:
            return f"{name}: {why}"
    return None


def _unlike(expected: Any, found: Any, case: Case) -> str | None:
    if isinstance(expected, list):
        if not isinstance(found, list) or len(expected) != len(found):
            return f"{found!r} instead of {len(expected)} tensors"
        return next(filter(None, (_unlike(a, b, case) for a, b in zip(expected, found, strict=True))), None)
    if expected is None or found is None or isinstance(expected, dict):
        return None if _equal(expected, found) else f"{found!r} instead of {expected!r}"
    a, b = np.asarray(expected), np.asarray(found)
    if a.shape != b.shape:
        return f"shape {b.shape} instead of {a.shape}"
    if a.dtype.kind in "OSU":
        return None if [str(x) for x in a.ravel()] == [str(x) for x in b.ravel()] else "other words"
    if a.dtype != b.dtype:
        return f"dtype {b.dtype} instead of {a.dtype}"
    x, y = a.astype(np.float64), b.astype(np.float64)
    if np.allclose(y, x, rtol=case.rtol, atol=case.atol, equal_nan=True) or compare({"": a}, {"": b}, "fast")[0].ok:
        return None
    return f"{y.ravel()[:4]} instead of {x.ravel()[:4]}"


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b) or (a is None and b is None)
    except ValueError:
        return False
