"""Writing golden files: expectations brought up to date, and new files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.check.golden import Result, Trial, run_cases
from graphopt.check.golden_file import Case, parse_golden, read_golden, replaced
from graphopt.check.normal import names_in, readable
from graphopt.ir.files import Replacement
from graphopt.ir.text import tensor_to_text

__all__ = ["golden_text", "update_file"]


def update_file(path: Path, files: Sequence[Path] = (), only: Sequence[Case] | None = None) -> tuple[int, list[Result]]:
    """Rewrite the expectations of a file to what happens, where that differs; comments and models stay.

    `only`: the cases to look at. Returns how many were rewritten, and the results as they are then. What is wrong
    in itself is not written down as expected: a result that is no valid model, or computes something else.
    """
    text = path.read_bytes().decode("utf-8")
    titles = None if only is None else {case.title for case in only}
    changes: list[tuple[Case, list[str]]] = []
    for case in read_golden(path):
        if titles is None or case.title in titles:
            new = Trial(case, files).expectation()
            if new is not None:
                changes.append((case, new))
    if changes:
        text = replaced(text, changes)
    wanted = [case for case in parse_golden(text, path) if titles is None or case.title in titles]
    results = run_cases(wanted, files)
    good = {result.case.title for result in results if result.ok}
    kept = [(case, lines) for case, lines in changes if case.title in good]
    if kept:
        with Replacement(path.resolve()) as out:
            out.write(replaced(path.read_bytes().decode("utf-8"), kept).encode("utf-8"))
            out.finish()
            out.commit()
    return len(kept), results


def golden_text(
    rule: str,
    title: str,
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    *,
    settings: Iterable[tuple[str, str]] = (),
    feeds: Iterable[tuple[str, np.ndarray[Any, Any]]] = (),
    comment: str = "",
) -> str:
    """A golden file of one case. `settings`: accuracy, target, rules; `comment`: lines ahead of it all."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()] + [""] * bool(comment)
    lines += [f"# rule: {rule}", *(f"# {name}: {value}" for name, value in settings), "", f"# case: {title}"]
    lines += [f"# feed: {tensor_to_text(name, array)}" for name, array in feeds]
    lines += ["# before", readable(before, names_in(before), rounded=False).rstrip()]
    lines += ["# after", readable(after, names_in(before)).rstrip()]
    return "\n".join(lines) + "\n"


