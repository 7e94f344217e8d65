"""Random samples of rules in whole graphs: features around the pattern, what can be asked for, what cannot be drawn."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from onnx import TensorProto

from graphopt import Const, Node, Tensor, op
from graphopt.check.sample import Rejected, SampleOptions, draw, instantiate
from tests.unit.sampling import BUILTIN, PLAIN, matches, of, pattern, samples, shape_of, share

# -- placement ------------------------------------------------------------------------------------


def _shifted(x: Tensor, c: Const) -> Tensor:
    return op.Relu(op.Neg(x) + c)


def test_patterns_stand_everywhere_in_a_graph() -> None:
    found = samples(pattern(_shifted, shapes={"x": "N C", "c": "C"}), 250)
    notes = " / ".join(s.traits["placement"] for s in found)
    for note in ("at the boundary", "x comes from Identity", "x comes from Abs", "the result is read by", "is a graph output, too",
                 "the interior", "in a body of If", "in a body of Loop", "the constant c is read by",
                 "c is the default of a graph input", "x has an unknown rank"):  # fmt: skip
        assert note in notes, note
    kinds = Counter("node" if of(s, "Constant") else "initializer" for s in found)
    assert kinds["node"] > 30 and kinds["initializer"] > 30


def test_a_default_of_a_graph_input_is_no_constant() -> None:
    found = pattern(_shifted, shapes={"x": "N C", "c": "C"})
    overridable = [s for s in samples(found, 200) if "default" in s.traits["placement"]]
    assert overridable
    assert not any(matches(found, s) for s in overridable)


def test_plain_samples_have_no_such_features() -> None:
    for sample in samples(pattern(lambda x, c: op.Relu(x + c) * 2), 20, PLAIN):
        assert sample.traits["placement"] == "at the boundary"
        assert sample.traits["axes"] == "distinct, fixed" and sample.traits["special values"] == "none"
        assert len(sample.model.graph.node) == 3
        assert all(isinstance(d, int) for v in sample.model.graph.input for d in shape_of(sample, v.name))


def test_a_feature_left_out_leaves_the_rest() -> None:
    found = BUILTIN["fuse.hard_swish"]
    same = dict.fromkeys(("operators", "opset", "dtypes", "left side", "branch"))
    for sample in samples(found, 20):
        fixed = instantiate(found, sample.seed, options=SampleOptions(dynamic=False, interior=False))
        assert {k: fixed.traits.get(k) for k in same} == {k: sample.traits.get(k) for k in same}
        assert "fixed" in fixed.traits["axes"] and fixed.traits["placement"] in ("at the boundary", "slope is the default")


# -- options, refusals ----------------------------------------------------------------------------


def test_opset_dtype_and_left_side_can_be_asked_for() -> None:
    two = BUILTIN["simplify.mul_one"]
    wanted = SampleOptions(opset=13, dtype=TensorProto.FLOAT16, pattern=1)
    for sample in samples(two, 10, wanted):
        assert sample.model.opset_import[0].version == 13
        assert sample.pattern == 1 and len(of(sample, "Div")) == 1
        assert sample.traits["dtypes"] == "float16"


def test_opsets_reach_from_old_to_new() -> None:
    drawn = {int(s.traits["opset"]) for s in samples(pattern(lambda x: op.Relu(x)), 150)}
    assert {7, 23, 24} <= drawn and len(drawn) > 12 and max(drawn) == 24


def _contradiction(x: Tensor) -> Tensor:
    return op.ReduceMean(op.ReduceMean(x, axes=[0]), [0])


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (_contradiction, None, "no opset has all operators of the pattern"),
        (lambda x: op.Gelu(x), SampleOptions(opset=13), "the pattern cannot be written at opset 13"),
        (lambda x: op.Sqrt(op.Not(x)), None, "no dtype suits all operators"),
        (lambda x: op.Unique(x), None, "the shape of Unique is not known"),
    ],
    ids=["opsets", "opset", "dtypes", "shape"],
)
def test_why_there_is_no_sample(function: Any, options: SampleOptions | None, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        draw(pattern(function), Random(0), options=options)


def test_what_was_rejected_before_is_kept() -> None:
    found = samples(BUILTIN["fuse.conv_bn"], 40)
    reasons = {reason for s in found for reason in s.rejected}
    assert reasons and all(isinstance(reason, str) and reason for reason in reasons)


def _bound(x: Tensor, conv: Node, w: Const) -> Tensor:
    return op.Relu(conv.bind(op.Conv(x, w, ...)))


def test_a_captured_node_changes_nothing() -> None:
    assert share(pattern(_bound)) > 0.7
