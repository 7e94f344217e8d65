"""python -m tests.backend: all of onnx's backend tests through -O3, in all their forms."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.backend.cases import cases
from tests.backend.check import check


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.backend", description=__doc__)
    parser.add_argument("words", nargs="*", help="only tests whose names contain one of these")
    parser.add_argument("--level", default="O3")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--verbose", action="store_true", help="show what is not run, too")
    options = parser.parse_args()
    start = time.monotonic()
    counts: Counter[str] = Counter()
    rewrites = 0
    known = [c for c in cases() if not options.words or any(word in c.name for word in options.words)]
    for case in known:
        for answer in check(case, options.level, options.target):
            counts[answer.kind] += 1
            rewrites += answer.rewrites
            if answer.kind == "wrong" or options.verbose:
                print(f"{answer.kind}: {case.name}, {answer.form}: {' '.join(answer.why.split())[:250]}", flush=True)
    said = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    print(f"{len(known)} tests, -{options.level} -t {options.target}: {said}; {rewrites} rewrites; {time.monotonic() - start:.0f} s")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
