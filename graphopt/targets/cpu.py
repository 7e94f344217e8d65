"""What this machine's processor can do with 8-bit integers."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["cpu_flags", "multiplies_bytes_exactly"]

_DOT_PRODUCT = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})


@cache
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def multiplies_bytes_exactly() -> bool:
    """Whether u8 × s8 products are summed without saturation.

    x86 without VNNI or AMX adds pairs of products in 16 bits (VPMADDUBSW), which overflows when weights use
    all 8 bits. Other processors have no such instruction. Where the system does not tell, the answer is yes.
    """
    flags = cpu_flags()
    return platform.machine().lower() not in _X86 or not flags or bool(flags & _DOT_PRODUCT)
