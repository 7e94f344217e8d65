"""Micro-models for the rows of the survey of optimizations: each module holds `CASES` of some sections."""

from __future__ import annotations

import importlib
import pkgutil

from tests.bench.micro.case import Case


def all_cases() -> list[Case]:
    """The cases of all modules, by row."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return sorted((c for m in modules for c in getattr(m, "CASES", ())), key=lambda case: case.row)
