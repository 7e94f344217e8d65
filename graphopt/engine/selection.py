"""Which rewrites a run may make: by the names that the journal gives them, and by what of the model is protected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Selection:
    """What the user wants to have or to leave out. Names may be patterns as in a shell: `fuse.gelu_*`.

    `select`: apply these rules only; what passes do to the whole graph is not restricted. `ignore`: make none of
    these rewrites, be they of rules or of passes. `protect`: nodes, values and operators that nothing may touch, as
    in `graphopt.ir.protect`. `keep_going`: a rule that raises is switched off for the rest of the run, which it
    would end otherwise.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    keep_going: bool = False

    def applies(self, name: str) -> bool:
        """Whether the rule of this full name may be applied."""
        return (not self.select or matches(name, self.select)) and not self.ignores(name)

    def ignores(self, name: str) -> bool:
        """Whether rewrites of this full name shall not be made."""
        return matches(name, self.ignore)

    def spelled(self) -> list[str]:
        """The patterns as flags of the command line."""
        kinds = (("--select", self.select), ("--ignore", self.ignore), ("--protect", self.protect))
        return [word for flag, patterns in kinds for pattern in patterns for word in (flag, pattern)]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is the name, or matches it as in a shell."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
