"""ONNX Runtime's own fusion test models against what its tests expect: `python -m tests.ort_testdata FOLDER`.

FOLDER has the models and EXPECT.md, a table of the operator counts that each test of ONNX Runtime asserts after its
transformer. Each model goes through `-O3 -t ort-cpu`, is verified, and its counts are compared with the expected ones:

fired       every count that is expected, or not more nodes than the counts add up to
equivalent  what should go is gone, into other operators
left        more is left than expected, for a reason that is known: see `_LEFT`
missing     more is left than expected; `--declined` shows what the rules say
none        no fusion is expected, and none was made
stronger    no fusion is expected of that transformer alone, but there is one, and the result is right
wrong       the result computes something else
refused     the model does not load

Exit code 1 if a result is wrong. Nothing of the folder is needed by the tests.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import graphopt

_COUNT = re.compile(r"(?<![\w.>])([A-Za-z][\w.]*) == (\d+)(?=;|$| —)")
_LEFT = {
    r"noop-add": "what is added is empty, or raises the rank",
    r"dropout": "a training graph: the operators have kernels on GPUs only",
    r"isinf_reducesum": "there is no kernel of IsAllFinite on a processor",
    r"matmul_integer_to_float16": "there is no kernel of MatMulIntegerToFloat for half precision on a processor",
    r"transpose_cast_matmul": "there is no kernel of FusedMatMul for half precision on a processor",
    r"embed_layer_norm": "a negative id counts from the end in Gather, and is an error in EmbedLayerNormalization",
    r"layer_norm_t5|simplified_layer_norm|skip_layer_norm_format[12]|format3_with_cast|layer_norm_with_cast|format3_graph_output_with_cast|no_beta_with_cast":
        "opset 12 has no normalization, and ONNX no SimplifiedLayerNormalization at all",
    r"fuse-matmul-bn": "the model does not run: its BatchNormalization has other sizes than its input",
    r"cast_elimination_complex|dup_qdq": "the casts, or the scales, round",
    r"attention_(int32|symbolic|distilbert|past)": "the kernel's mask is the written one for masks of zeros and ones only",
    r"trans_batch_fusion3": "the model declares another shape than its product has",
    r"div_mul": "integers divide by zero",
    r"gelu_format2_0": "1.41421 is not the root of two",
    r"conv_add": "measured slower than ONNX Runtime alone: see the table of the target",
    r"(graph_output|partial)": "measured slower than ONNX Runtime alone: see the table of the target",
}
_TRAPS = re.compile(r"no_?fusion|invalid|unfusable|not_?broadcastable|badaxis|nofuse|gh_issue_17392|negative_", re.IGNORECASE)
_FUSED = re.compile(r"^com\.microsoft\.")


@dataclass(frozen=True)
class Expected:
    """One row and model: the operators' counts after the transformer alone; `trap`: nothing is to be fused."""

    model: str
    test: str
    counts: dict[str, int]
    trap: bool
    text: str


def expectations(folder: Path) -> Iterator[Expected]:
    """The rows of the table whose models are there. Of an operator that is counted twice the last count is after."""
    for line in (folder / "EXPECT.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        models = re.findall(r"`([^`]+\.onnx)`", cells[0])
        if not line.startswith("| `") or len(cells) < 4:
            continue
        counts = {name: int(number) for name, number in _COUNT.findall(cells[3])}
        for model in models:
            if (folder / model).is_file():
                trap = bool(_TRAPS.search(Path(model).name + cells[1])) or cells[3].startswith("no fusion")
                yield Expected(model, cells[1].split(" ")[0], counts, trap, cells[3])


def judge(expected: Expected, result: graphopt.Result) -> tuple[str, str]:
    """A verdict on one row, and what there is to say about it."""
    left = Counter(result.report.after.operators)
    more = {op: (left[op], n) for op, n in expected.counts.items() if left[op] > n and not _FUSED.match(op)}
    made = [op for op in expected.counts if _FUSED.match(op) and expected.counts[op]]
    nodes = f"{result.report.before.nodes} → {result.report.after.nodes} nodes: {_text(left)}"
    if expected.trap:
        fused = [op for op in left if _FUSED.match(op)]
        return ("stronger" if fused else "none"), f"{nodes}"
    whole = expected.counts and result.report.after.nodes <= sum(expected.counts.values())
    if more and not whole:
        reason = next((why for name, why in _LEFT.items() if re.search(name, expected.model)), None)
        if reason is not None:
            return "left", f"{nodes}; {reason}"
        return "missing", f"{nodes}; expected {', '.join(f'{op} {n} instead of {m}' for op, (m, n) in more.items())}"
    if any(left[op] < expected.counts[op] for op in made):
        return "equivalent", f"{nodes}; no {', '.join(op for op in made if left[op] < expected.counts[op])}"
    return "fired", nodes


def _text(left: Counter[str]) -> str:
    return ", ".join(f"{op} {n}" if n > 1 else op for op, n in sorted(left.items())) or "none"


def run(path: Path, target: str) -> graphopt.Result | str:
    """The result, or why there is none: `wrong: …` or `refused: …`."""
    try:
        return graphopt.optimize(path, "O3", target=target)
    except graphopt.VerificationError as error:
        return f"wrong: {error.what}"
    except graphopt.GraphoptError as error:
        return f"refused: {type(error).__name__}: {error.what}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-t", "--target", default="ort-cpu")
    parser.add_argument("--only", default="", help="a part of the file names")
    parser.add_argument("--declined", action="store_true", help="show which rules declined, and why")
    options = parser.parse_args()
    verdicts: Counter[str] = Counter()
    done: dict[str, graphopt.Result | str] = {}
    for expected in expectations(options.folder):
        if options.only not in expected.model:
            continue
        if expected.model not in done:
            done[expected.model] = run(options.folder / expected.model, options.target)
        result = done[expected.model]
        if isinstance(result, str):
            verdict, _, text = result.partition(": ")
        else:
            verdict, text = judge(expected, result)
            status = result.report.verification.status
            text += "" if status == "ok" else f" ({status}: {result.report.verification.reason})"
        verdicts[verdict] += 1
        print(f"{verdict:10} {Path(expected.model).name:55} {expected.test:40} {text}", flush=True)
        if options.declined and isinstance(result, graphopt.Result):
            for item in result.report.passes:
                for rule, reasons in item.declined.items():
                    print(f"{'':13}{rule}: {dict(reasons)}")
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    sys.exit(1 if verdicts["wrong"] else 0)


if __name__ == "__main__":
    main()
