"""The command line of the fuzzer; `make fuzz`."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

import onnx

from graphopt.engine.catalog import all_rules
from tests.fuzz.blame import Blamed, blame
from tests.fuzz.examine import Examiner, Fault, Setting
from tests.fuzz.generate import Generator
from tests.fuzz.kernels import Kernels

_FOLDER = Path("build/fuzz")


class Run:
    """Graphs one after another. `found` counts faults by the rewrite to blame and their kind."""

    def __init__(self, generator: Generator, examiner: Examiner, folder: Path = _FOLDER, each: int = 1) -> None:
        self.generator, self.examiner = generator, examiner
        self.graphs = self.nodes = 0
        self.found: Counter[tuple[str, str]] = Counter()
        self.blamed: list[Blamed] = []
        self._folder, self._each = folder, each

    def graph(self, seed: str) -> list[Fault]:
        """Make and examine one graph; each new kind of fault is made small, printed and stored."""
        example = self.generator.example(seed)
        if example is None:
            return []
        self.graphs += 1
        self.nodes += len(example.model.graph.node)
        faults = self.examiner.examine(example, list(self.generator.variants(example, seed)))
        seen: set[tuple[str, str]] = set()
        for fault in faults:
            kind = fault.kind, fault.text[:40]
            if kind not in seen:
                seen.add(kind)
                self._report(seed, fault)
        return faults

    def _report(self, seed: str, fault: Fault) -> None:
        from tests.fuzz.blame import culprit

        rule = culprit(fault) or "?"
        self.found[rule, fault.kind] += 1
        print(f"seed {seed}: {fault.setting}: {fault.kind}: {rule}: {fault.text[:300]}", flush=True)
        if self.found[rule, fault.kind] > self._each:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = seed.replace(":", "_")
        onnx.save(fault.example.model, self._folder / f"{name}.onnx")
        blamed = blame(fault)
        self.blamed.append(blamed)
        print(f"{blamed.text}  in {blamed.save(self._folder, name)}\n", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--graphs", type=int, default=1000, help="how many graphs to make")
    parser.add_argument("--seed", help="what they are made from; a random one by default")
    parser.add_argument("--only", help="the one graph with this seed, as it was printed")
    parser.add_argument("--level", default="O1,O2,O3")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--each", type=int, default=1, help="how many faults of one kind to make small")
    parser.add_argument("--stats", action="store_true", help="show how often each rule has fired")
    options = parser.parse_args(arguments)
    seed = options.seed or secrets.token_hex(4)
    settings = [Setting(level, target) for target in options.target.split(",") for level in options.level.split(",")]
    generator = Generator([named.rule for named in all_rules()], Kernels())
    run = Run(generator, Examiner(settings), each=options.each)
    if options.only:
        run.graph(options.only)
        return _end(run, options.only, 0.0, stats=False)
    print(f"seed {seed}, {', '.join(map(str, settings))}", flush=True)
    start = time.monotonic()
    number = 0
    while run.graphs < options.graphs:
        if options.minutes is not None and time.monotonic() - start > 60 * options.minutes:
            break
        run.graph(f"{seed}:{number}")
        number += 1
    return _end(run, seed, time.monotonic() - start, options.stats)


def _end(run: Run, seed: str, seconds: float, stats: bool) -> int:
    seen = ", ".join(f"{count} {what}" for what, count in run.examiner.seen.most_common())
    print(f"seed {seed}: {run.graphs} graphs of {run.nodes / max(run.graphs, 1):.0f} nodes in {seconds:.0f} s; "
          f"{sum(run.examiner.fired.values())} rewrites by {len(run.examiner.fired)} rules; {seen}")
    for (rule, kind), count in run.found.most_common():
        print(f"  {count:4} {kind:10} {rule}")
    if stats:
        fired = run.examiner.fired
        known = {named.name for named in all_rules()}
        for name, count in fired.most_common():
            print(f"  {count:6} {name}")
        print(f"  never: {', '.join(sorted(known - fired.keys())) or 'none'}")
    return 1 if run.found else 0


if __name__ == "__main__":
    sys.exit(main())
