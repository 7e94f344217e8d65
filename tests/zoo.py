"""Every model of a folder through a pipeline: `python -m tests.zoo FOLDER [-p PASSES] [-t TARGET]`.

For each: nodes before and after, rewrites, time, verification, and whether a second run changes
nothing. Refusals are fine when they are clean errors. Exit code 1 if anything crashed, failed
verification, or did not settle.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import graphopt


def run(path: Path, passes: str, target: str, data: str | None) -> tuple[str, str]:
    """A verdict (`ok`, `refused`, `unverified`, `failed`, `unsettled`, `crash`) and a line about it."""
    start = time.perf_counter()
    try:
        result = graphopt.optimize(path, passes, target=target, data=data, force=True)
        report = result.report
        again = graphopt.optimize(result.model, passes, target=target, data=data, verify=False, force=True)
    except graphopt.VerificationError as error:
        return "failed", error.what
    except graphopt.GraphoptError as error:
        return "refused", f"{type(error).__name__}: {error.what}"
    except Exception as error:
        traceback.print_exc()
        return "crash", f"{type(error).__name__}: {error}"
    status = report.verification.status
    line = (
        f"{report.before.nodes:6} → {report.after.nodes:6} nodes, {report.rewrites:5} rewrites, "
        f"{time.perf_counter() - start:5.1f} s, {status}"
    )
    if report.coverage is not None:
        line += f", {report.coverage}"
    if again.report.rewrites:
        rules = Counter(entry.rule for entry in again.journal.entries)
        return "unsettled", f"{line}; a second run made {dict(rules)}"
    if status == "failed":
        return "failed", line
    return ("ok" if status == "ok" else "unverified"), line + ("" if status == "ok" else f": {report.verification.reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-p", "--passes", default="O2")
    parser.add_argument("-t", "--target", default="onnx")
    parser.add_argument("--data")
    parser.add_argument("--only", default="", help="a part of the file names")
    options = parser.parse_args()
    if not options.folder.is_dir():
        sys.exit(f"there is no folder {options.folder}; give one with models: make zoo ZOO=path")
    verdicts: Counter[str] = Counter()
    for path in sorted(options.folder.rglob("*.onnx")):
        if options.only not in path.name:
            continue
        verdict, line = run(path, options.passes, options.target, options.data)
        verdicts[verdict] += 1
        print(f"{verdict:10} {path.relative_to(options.folder)!s:60} {line}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    sys.exit(1 if verdicts.keys() & {"crash", "failed", "unsettled"} else 0)


if __name__ == "__main__":
    main()
