"""Wrong rules, each wrong in a way that somebody once got wrong: the rule checker must catch every one.

A docstring says what is wrong. The right twins of some of them are in `twins.py`.
"""

from __future__ import annotations

from graphopt import rules_in
from tests.rules.mutants import algebra, axes, operands, products, quantization

__all__ = ["MUTANTS"]

MUTANTS = [rule for module in (algebra, operands, axes, products, quantization) for rule in rules_in(module)]
