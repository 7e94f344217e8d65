"""The networks of the quantization figures: sound models whose activations look like those of trained ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from tests.bench import nets


def test_a_network_runs_on_its_inputs_and_tells_them_apart() -> None:
    model = nets.mobilenet_v2()
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    a, b = (session.run(["logits"], feeds)[0] for feeds in nets.inputs("mobilenet_v2", 2, seed=3))
    assert 1.0 < a.std() < 20.0
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.98


def test_inputs_fit_and_repeat() -> None:
    for name in nets.NETS:
        first, again = nets.inputs(name, 2, seed=5), nets.inputs(name, 2, seed=5)
        assert all(np.array_equal(x[key], y[key]) for x, y in zip(first, again, strict=True) for key in x)
    text = nets.inputs("bert_base", 1, seed=5)[0]
    assert {array.shape for array in text.values()} == {(1, 128)}
    assert (text["input_ids"][text["attention_mask"] == 0] == 0).all()
