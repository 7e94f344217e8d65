"""`graphopt inspect`."""

from __future__ import annotations

import json

import onnx.parser


def test_shows_the_model(cli, model):
    code, out, err = cli("inspect", model)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == str(model)
    words = [line.split() for line in lines]
    assert ["opset", "ai.onnx", "17", "(IR", "version", "8)"] in words
    assert ["inputs", "image", "float32", "batch", "×", "2", "×", "8", "×", "8"] in words
    assert ["outputs", "logits", "float32", "batch", "×", "4", "×", "8", "×", "8"] in words
    assert ["Identity", "2"] in words
    assert ["MACs", "4608"] in words  # 4·8·8 outputs of 2·3·3 each
    assert ["quantized", "no"] in words
    assert "assumed for these two: batch = 1" in out


def test_json(cli, model):
    code, out, _ = cli("inspect", model, "--json", "-")
    assert code == 0
    found = json.loads(out)
    assert found["schema"] == "graphopt.inspect/1"
    assert found["opsets"] == {"ai.onnx": 17}
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 2, 8, 8]}]
    assert found["parameters"] == 4 * 2 * 3 * 3 + 16
    assert found["weights"] == {"float32": 4 * found["parameters"]}
    assert found["file_bytes"] == model.stat().st_size
    assert found["operators"]["Identity"] == 2


def test_functions_bodies_and_quantization(cli, tmp_path):
    path = tmp_path / "parts.onnx"
    path.write_bytes(
        onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17, "mine" : 1]>
        parts (float[4] x, bool c) => (float[4] y)
        <float s = {0.5}, uint8 z = {0}> {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            t = mine.twice (d)
            y = If (c) <
                then_branch = yes () => (float[4] a) { a = Neg (t) },
                else_branch = no () => (float[4] b) { b = Abs (t) }
            >
        }
        <domain: "mine", opset_import: ["" : 17]>
        twice (v) => (w) { w = Add (v, v) }
        """).SerializeToString()
    )
    code, out, err = cli("inspect", path)
    assert (code, err) == (0, "")
    words = [line.split() for line in out.splitlines()]
    assert ["quantized", "Q/DQ:", "1", "QuantizeLinear,", "1", "DequantizeLinear"] in words
    assert ["function", "mine.twice,", "1", "nodes"] in words
    assert "7, some of them in 2 bodies of If, Loop or Scan and 1 functions" in out
