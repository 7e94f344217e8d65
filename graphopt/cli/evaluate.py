"""`--eval FILE.py:FUNCTION`: the user's own metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from graphopt.errors import UsageError
from graphopt.verify.script import blame, load_function

Metric = Callable[[Any], float]


def load_metric(spec: str) -> Metric:
    """The function that `FILE.py:FUNCTION` names; the file is imported as a script would be.

    Raises `UsageError` for a file or function that is not there, and for what fails in it; so does the metric
    when it raises, or returns something that is no finite number.
    """
    path, name, function = load_function(spec, "--eval")

    def metric(run: Any) -> float:
        try:
            value = float(function(run))
        except (Exception, SystemExit) as error:
            raise blame(path, f"{name}()", error) from error
        if not math.isfinite(value):
            raise UsageError(f"{name}() returned {value}, which is no metric", where=str(path))
        return value

    return metric
