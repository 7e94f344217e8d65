"""Rules and cases for tests of golden files."""

from __future__ import annotations

from pathlib import Path

from graphopt.check.golden import run_cases
from graphopt.check.golden_file import parse_golden

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'
ONE = f"""# rule: simplify.mul_one
# case: times one
# before
{HEADER}
g (float[N,4] x) => (float[N,4] y)
   <float one = {{1}}>
{{
   h = Mul (x, one)
   y = Relu (h)
}}
"""
AFTER = f"""# after
{HEADER}
g (float[N,4] x) => (float[N,4] y)
{{
   y = Relu (x)
}}
"""
RULES = """
import numpy as np
from graphopt import Const, Domain, Tensor, op, require, rule

ms = Domain("com.microsoft")

@rule(lambda x: op.Neg(op.Relu(x)))
def wrong(x):
    '''Wrong: forgets the sign.'''
    return op.Relu(x)

@rule(lambda x: op.Neg(op.Abs(x)))
def at_the_edge(x):
    '''Looks at what it should not.'''
    require(x.value.is_input, "x is computed")
    return op.Relu(x)

@rule(lambda x: op.Exp(op.Tanh(x)))
def raises(x):
    '''Raises.'''
    return x.nothing

@rule(lambda x: op.Sqrt(op.Exp(x)), bounded=True)
def retyped(x):
    '''Makes something of another size.'''
    return op.ReduceSum(op.Exp(x))

@rule(lambda x: op.Relu(x), bounded=True)
def endless(x):
    '''Finds its own result again.'''
    return op.Relu(x)

@rule(lambda x: x * op.Sigmoid(x), accuracy="close")
def quick(x):
    '''x times its sigmoid is QuickGelu.'''
    return ms.QuickGelu(x, alpha=1.0)
"""


def case(rule: str, body: str, expectation: str = "", *, extra: str = "", signature: str = "(float[N,4] x) => (float[N,4] y)") -> str:
    model = f"{HEADER}\ng {signature}\n{{\n   {body}\n}}"
    return f"# rule: {rule}\n# case: title\n{extra}# before\n{model}\n{expectation}"


def after(body: str, signature: str = "(float[N,4] x) => (float[N,4] y)") -> str:
    return f"# after\n{HEADER}\ng {signature}\n{{\n   {body}\n}}\n"


def rules_in(folder: Path) -> Path:
    """The file of the rules."""
    path = folder / "my.py"
    path.write_text(RULES)
    return path


def run(text: str, *files: Path) -> str | None:
    """The failure of the one case, None if it passes."""
    (result,) = run_cases(parse_golden(text, Path("t.onnxtxt")), files)
    return result.failure
