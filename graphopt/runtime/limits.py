"""How much memory the child process may take: a model that asks for more gets an error, not the machine.

Linux counts private writable memory against RLIMIT_DATA, so a hopeless allocation fails in `malloc` and comes
back as an ordinary error. Where the limit does not exist, nothing is limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["allowance", "limit", "machine_memory"]

_SHARE = 0.75  # of the machine's memory, for the child as a whole


def machine_memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or its control group's if that is less."""
    sizes = []
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            sizes.append(int(line.split()[1]) * 1024)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _text(path).strip()
        if text.isdigit():
            sizes.append(int(text))
    return min(sizes, default=None)


def limit() -> None:
    """Hold this process to its share of the machine's memory from now on."""
    total = machine_memory()
    if total is not None:
        _set_soft(int(total * _SHARE))


@contextmanager
def allowance(extra: int | None) -> Iterator[None]:
    """Within the block, this process may take at most `extra` bytes more than it holds now."""
    try:
        import resource
    except ImportError:  # no such limits on this system
        yield
        return
    held = _held()
    if extra is None or held is None:
        yield
        return
    before, _ = resource.getrlimit(resource.RLIMIT_DATA)
    _set_soft(held + extra if before == resource.RLIM_INFINITY else min(before, held + extra))
    try:
        yield
    finally:
        _set_soft(before)


def _set_soft(size: int) -> None:
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        size = hard if size == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def _held() -> int | None:
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
