"""The files that `graphopt rules new` writes: a rule that works, with its golden tests."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from graphopt.check.golden_file import SUFFIX
from graphopt.errors import UsageError

__all__ = ["scaffold"]

_RULES = '''\
"""Rewrite rules of @NAME@.

    graphopt rules check @NAME@.py    tries them on random models
    graphopt rules test @NAME@.py     runs the golden tests in @NAME@.onnxtxt
"""

from __future__ import annotations

from graphopt import Const, Tensor, op, require, rule

# A rule is two functions of the same parameters. The first one is the pattern: what to
# look for. Operators are written as `op.Relu(x)`, or `a + b`. A parameter stands for
# any tensor; annotated `Const`, for a constant.


def _two_multiples(x: Tensor, a: Const, b: Const) -> Tensor:
    return x * a + x * b


# The second one is the replacement: what to put there. Dtype and shape must stay the
# same, and nobody else may read the values in between: graphopt sees to both. What else
# has to hold is required, with the reason that `graphopt explain` then shows. Parts
# that are constant, such as `a + b` here, are computed.
#
# accuracy: "exact" (equal in every bit), "close" (up to rounding; the default), "fast"
# (for finite numbers only), or "approx" (lossy).
# shapes: how examples for `graphopt rules check` look; "" is a single number.


@rule(_two_multiples, accuracy="close", shapes={"x": "N C", "a": "", "b": ""})
def add_multiples(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The sum of two multiples of x is one multiple of x."""
    require(a.scalar * b.scalar > 0, "the factors do not have the same sign")
    return op.Mul(x, a + b)
'''

_GOLDEN = """\
# Golden tests of @NAME@.py: what its rules make of small models. Run them with
#
#     graphopt rules test @NAME@.py
#
# To add one, write a title and the model to begin with; `--update` adds what happens now. Read it.

# rule: @NAME@.add_multiples

# case: two multiples become one
# before
<ir_version: 10, opset_import: ["" : 18]>
example (float[N,4] x) => (float[N,4] y)
   <float two = {2},
    float three = {3}>
{
   a = Mul (x, two)
   b = Mul (x, three)
   y = Add (a, b)
}
# after
<ir_version: 10, opset_import: ["" : 18]>
example (float[N,4] x) => (float[N,4] y)
   <float five = {5}>
{
   y = Mul (x, five)
}

# case: factors that may cancel stay
# before
<ir_version: 10, opset_import: ["" : 18]>
example (float[N,4] x) => (float[N,4] y)
   <float two = {2},
    float minus_two = {-2}>
{
   a = Mul (x, two)
   b = Mul (x, minus_two)
   y = Add (a, b)
}
# unchanged: the factors do not have the same sign

# case: multiples of different tensors stay
# before
<ir_version: 10, opset_import: ["" : 18]>
example (float[N,4] x, float[N,4] z) => (float[N,4] y)
   <float two = {2},
    float three = {3}>
{
   a = Mul (x, two)
   b = Mul (z, three)
   y = Add (a, b)
}
# unchanged: no match
"""


def scaffold(name: str, folder: Path) -> tuple[Path, Path]:
    """Write `name.py` and `name.onnxtxt` into a folder; their paths.

    Raises `UsageError` for a name that no module can have, a folder that is not there, a file that is.
    """
    _check_name(name)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "there is no such folder"
        raise UsageError(what, where=str(folder), hint="make it first, or name another one with --dir")
    rules, golden = folder / f"{name}.py", folder / f"{name}{SUFFIX}"
    for path in (rules, golden):
        if path.exists() or path.is_symlink():
            raise UsageError("is there already", where=str(path), hint="nothing was written; choose another name")
    for path, text in ((rules, _RULES), (golden, _GOLDEN)):
        try:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text.replace("@NAME@", name))
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=str(path)) from None
    return rules, golden


def _check_name(name: str) -> None:
    if "/" in name or "\\" in name:
        raise UsageError(f"{name!r} is a path, not a name", hint="name the folder with --dir")
    if name.endswith(".py"):
        raise UsageError(f"{name!r} is the name of a file", hint=f"leave the suffix out: {name.removesuffix('.py')}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot be the name of a Python module", hint=f"try {_like(name)}")


def _like(name: str) -> str:
    """A name that is allowed, as near as possible."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()
    if not words or keyword.iskeyword(words) or not words[0].isalpha():
        words = f"{words.lstrip('0123456789_') or 'my'}_rules"
    return words
