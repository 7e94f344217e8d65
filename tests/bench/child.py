"""One measurement in a process of its own: `python -m tests.bench.child TOOL INPUT OUTPUT`, JSON on stdout.

As `tests.bench.tools`, for a single model: the memory of the process is then that of one run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.tools import SMALL, TOOLS


def main() -> None:
    tool, source, output = sys.argv[1:]
    run = TOOLS[tool]()
    with tempfile.TemporaryDirectory() as folder:
        run(str(SMALL), str(Path(folder) / "small.onnx"))
    start = time.perf_counter()
    run(source, output)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
