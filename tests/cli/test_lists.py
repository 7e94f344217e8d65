"""`graphopt passes`, `rules list` and `targets`."""

from __future__ import annotations


def test_passes_with_options_and_presets(cli):
    code, out, err = cli("passes")
    assert (code, err) == (0, "")
    for name in ("cleanup", "fold", "simplify", "layout", "fuse", "quant"):
        assert f"\n{name} " in out
    assert "  method = auto, or minmax, or average, or percentile, or entropy, or mse\n" in out
    assert "  per-channel = true\n" in out
    assert "runs after fuse, layout\n" in out
    for level in range(4):
        assert f"\nO{level} " in out


def test_rules_of_one_pass(cli):
    code, out, err = cli("rules", "list", "--pass", "fuse")
    assert (code, err) == (0, "")
    rows = out.splitlines()[2:]
    assert rows
    assert all(row.startswith(("fuse.", " ")) for row in rows)


def test_what_a_pass_without_rules_does(cli):
    code, out, err = cli("rules", "list", "--pass", "quant")
    assert (code, err) == (0, "")
    rows = [line.split("  ")[0] for line in out.splitlines()[2:] if not line.startswith(" ")]
    assert rows[0] == "quant.opset" and {"quant.activation", "quant.weight", "quant.bias", "quant.dynamic"} < set(rows)


def test_a_pass_that_does_not_say_what_it_does(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from graphopt import Pass\n\n\nclass Mine(Pass):\n    name = 'mine'\n\n    def run(self, ctx):\n        pass\n"
    )
    expected = "the pass mine applies no rules: it works on the whole graph\n"
    assert cli("rules", "list", "--rules", "mine.py", "--pass", "mine") == (0, expected, "")


def test_what_passes_do_to_the_whole_graph_is_listed(cli):
    code, out, err = cli("rules", "list")
    assert (code, err) == (0, "")
    names = {line.split()[0] for line in out.splitlines() if line[:1].isalpha()}
    assert {"cleanup.dead", "fold", "simplify.same_size", "simplify.concat_flat", "fuse.gelu_erf"} <= names


def test_rules_of_an_unknown_pass(cli):
    code, out, err = cli("rules", "list", "--pass", "fues")
    assert (code, out) == (2, "")
    assert err.startswith("graphopt: error: there is no pass 'fues'\n  did you mean 'fuse'?")


def test_targets(cli):
    code, out, err = cli("targets")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line[:1].isalpha()}
    assert rows["tensorrt-rtx"].split()[1:3] == [".onnx", ".engine"]
    assert {"onnx", "ort-cpu", "auto", "qnn", "tensorrt"} <= set(rows)
    assert " float8e4m3fn: Gemm, MatMul\n" in out
