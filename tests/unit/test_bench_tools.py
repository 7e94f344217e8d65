"""The process that runs a peer of the benchmark: what the peer prints is no answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NOISY = """
import os, sys
from tests.bench import tools

def noisy(source, output):
    print("from Python")
    os.write(1, b"from C++\\n")

tools.TOOLS["noisy"] = lambda: noisy
sys.argv = ["tools", "noisy"]
tools.main()
"""


def test_what_a_peer_prints_is_no_answer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NOISY], input="a\tb\nc\td\n", capture_output=True, text=True, cwd=ROOT, check=True
    )
    ready, *answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ready == {"ready": True}
    assert [list(answer) for answer in answers] == [["seconds"], ["seconds"]]
    assert "from C++" in done.stderr and "from Python" in done.stderr
