"""The presets `-O0` to `-O3`."""

from __future__ import annotations

from graphopt import Preset

PRESETS = {
    "O0": Preset("", "exact", "Change nothing: load, check, write."),
    "O1": Preset("cleanup,fold,simplify,fuse,layout", "exact", "Only what keeps every bit of every output."),
    "O2": Preset("cleanup,fold,simplify,fuse,layout", "close",
                 "Also what reorders arithmetic, within the dtype's tolerance."),
    "O3": Preset("cleanup,fold,simplify,fuse,layout,contrib", "fast",
                 "Also what holds for finite inputs only, and operators that only the target knows."),
}
