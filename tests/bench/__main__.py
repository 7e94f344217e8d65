"""The figures of the README: `make bench`. Peers are measured in the same run, in turns.

Nothing here asserts on time; each line gives the measured value beside its goal, and what it means is
for the reader to judge on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import psutil

from tests.bench.checking import checking
from tests.bench.matching import matching
from tests.bench.micro.table import micro
from tests.bench.quant import seeded
from tests.bench.quant.table import quant
from tests.bench.scale import scale
from tests.bench.traps import fallen

ROOT = Path(__file__).parents[2]
PEERS = ("onnxsim", "onnxslim", "onnxscript")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def child(tool: str, source: Path, output: Path) -> dict[str, float] | None:
    """Seconds of one run, and peak bytes of its process with its children; None if the tool failed.

    The memory is watched from here, so that watching costs the tool no time: resident memory every 10 ms, what
    is shared between a process and its child counted twice.
    """
    command = [sys.executable, "-m", "tests.bench.child", tool, str(source), str(output)]
    running = psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0
    while running.poll() is None:
        peak = max(peak, resident(running))
        time.sleep(0.01)
    out, err = running.communicate()
    if running.returncode:
        print(f"    {tool} failed: {err.strip().splitlines()[-1] if err.strip() else running.returncode}")
        return None
    return {"seconds": json.loads(out.strip().splitlines()[-1])["seconds"], "peak": peak}


def resident(process: psutil.Process) -> int:
    total = 0
    try:
        for one in [process, *process.children()]:
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def against_peers(folder: Path, megabytes: int, rounds: int) -> None:
    print(f"\n== a {megabytes} MB transformer against peers, {rounds} rounds in turns ==")
    source = folder / "transformer.onnx"
    load(ROOT / "fixtures" / "generate.py").transformer(source, megabytes)
    tools = ("graphopt", "graphopt-verified", *PEERS)
    seconds: dict[str, list[float]] = {t: [] for t in tools}
    peaks: dict[str, list[float]] = {t: [] for t in tools}
    for _ in range(rounds):
        for tool in tools:
            output = folder / f"{tool}.onnx"
            output.unlink(missing_ok=True)
            found = child(tool, source, output)
            if found is not None:
                seconds[tool].append(found["seconds"])
                peaks[tool].append(found["peak"] / 1e6)
    for tool in tools:
        if seconds[tool]:
            print(f"  {tool:18} {spread(seconds[tool])} s, peak {statistics.median(peaks[tool]):.0f} MB")
    fastest = min((statistics.median(seconds[p]), p) for p in PEERS if seconds[p])
    weights = source.stat().st_size / 1e6
    for tool, goal in (("graphopt", "at least 10"), ("graphopt-verified", "above 1")):
        ratio = fastest[0] / statistics.median(seconds[tool])
        print(f"  {tool}: {ratio:.1f} times as fast as {fastest[1]} (goal: {goal})")
    print(f"  peak without verification {max(peaks['graphopt']):.0f} MB (goal: 250)")
    print(f"  peak with verification {max(peaks['graphopt-verified']) / weights:.2f} times the weights (goal: 3)")


def linearity(folder: Path) -> None:
    print("\n== cost per node, 100 000 nodes against 10 000 ==")
    import onnx

    import graphopt

    generate = load(ROOT / "fixtures" / "generate.py")
    cost: dict[str, dict[int, list[float]]] = {}
    total: dict[int, list[float]] = {}
    for size in (10_000, 100_000):
        path = folder / f"chain{size}.onnx"
        onnx.save(generate.chain(size), path)
        for _ in range(3 if size == 10_000 else 2):
            start = time.perf_counter()
            result = graphopt.optimize(path, "O2", verify=False)
            result.save(folder / "chain.opt.onnx")
            total.setdefault(size, []).append(time.perf_counter() - start)
            for record in result.report.passes:
                cost.setdefault(record.name, {}).setdefault(size, []).append(record.seconds / size * 1e6)
    for name, found in cost.items():
        small, large = min(found[10_000]), min(found[100_000])
        print(f"  {name:10} {small:7.2f} and {large:7.2f} µs per node: {large / small:.2f} times (goal: at most 1.5)")
    print(f"  -O2 on 100 000 nodes, file to file: {spread(total[100_000])} s (goal: under 15)")


def idle(folder: Path) -> None:
    print("\n== a second run of the same passes ==")
    import graphopt

    for path in sorted((ROOT / "fixtures" / "models").glob("*.onnx")):
        for passes, target in (("O2", "onnx"), ("fuse,quant", "ort-cpu")):
            first = graphopt.optimize(path, passes, target=target, force=True,
                                      data=ROOT / "fixtures/data/digits_calib.npz")
            first.save(folder / "first.onnx")
            second = graphopt.optimize(folder / "first.onnx", passes, target=target, verify=False, force=True,
                                       data=ROOT / "fixtures/data/digits_calib.npz")
            print(f"  {path.stem:14} {passes:11} {first.report.rewrites:4} rewrites, then "
                  f"{second.report.rewrites} (goal: 0)")


def int8() -> None:
    print("\n== int8 for ort-cpu, with the held-out digits ==")
    import graphopt

    accuracy = load(ROOT / "fixtures" / "accuracy.py").accuracy
    for name in ("residual_cnn", "vit"):
        result = graphopt.optimize(
            ROOT / "fixtures" / "models" / f"{name}.onnx", "fuse,quant", target="ort-cpu",
            data=ROOT / "fixtures/data/digits_calib.npz", evaluate=accuracy, bench=True, force=True,
        )  # fmt: skip
        report = result.report
        assert report.latency_before is not None and report.latency_after is not None
        print(f"  {name}: accuracy {report.metric_before:.2f} % and {report.metric_after:.2f} % (goal: within 1 %), "
              f"{report.coverage}, latency {report.latency_before.median / report.latency_after.median:.2f} times")


def startup(rounds: int) -> None:
    print("\n== graphopt --help against a bare import of typer ==")
    times: dict[str, list[float]] = {"help": [], "typer": []}
    commands = {
        "help": [str(Path(sys.executable).parent / "graphopt"), "--help"],
        "typer": [sys.executable, "-c", "import typer"],
    }
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times[name].append(time.perf_counter() - start)
    ratio = statistics.median(times["help"]) / statistics.median(times["typer"])
    print(f"  {spread(times['help'])} s against {spread(times['typer'])} s: {ratio:.2f} times (goal: at most 1.5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="peers, scale, linearity, idle, int8, startup, matching, checking, micro, traps, quant, seeded; all by default")
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "startup": lambda: startup(11),
            "matching": matching,
            "checking": checking,
            "micro": micro,
            "traps": fallen,
            "int8": int8,
            "quant": quant,
            "seeded": seeded.main,
            "idle": lambda: idle(folder),
            "linearity": lambda: linearity(folder),
            "scale": lambda: scale(folder, load(ROOT / "fixtures" / "generate.py"), options.rounds),
            "peers": lambda: against_peers(folder, options.megabytes, options.rounds),
        }
        for part in options.only or parts:
            parts[part]()


if __name__ == "__main__":
    main()
