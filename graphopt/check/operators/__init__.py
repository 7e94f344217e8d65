"""Plans of operators: for each a function that asks for operands and attributes that go together."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.check.call import Call
from graphopt.check.operators import along, arrange, elementwise, pick, products, windows
from graphopt.check.sizes import Shape

Plan = Callable[[Call], Shape | None]

PLANS: dict[str, Plan] = {
    **elementwise.PLANS, **arrange.PLANS, **pick.PLANS, **along.PLANS, **windows.PLANS, **products.PLANS,
}  # fmt: skip


def plan_for(domain: str, op: str) -> Plan:
    """The plan of an operator; for one that is not known, that of functions element by element."""
    return PLANS.get(op, elementwise.broadcasting) if domain == "" else elementwise.broadcasting
