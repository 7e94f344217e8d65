"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from graphopt.errors import UsageError

__all__ = ["parse_bytes"]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Bytes, from a number with or without a unit: `512MiB`, `1.5 GB`, `4096`.

    Raises `UsageError` for anything else, and for less than one byte.
    """
    found = _AMOUNT.fullmatch(text.strip())
    factor = _UNITS.get(found[2].lower()) if found else None
    amount = int(float(found[1]) * factor) if found and factor is not None else 0
    if amount < 1:
        raise UsageError(f"{text!r} is no amount of memory", hint="write a number and a unit, such as 512MiB or 2GB")
    return amount
