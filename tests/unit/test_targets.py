"""Target files: the built-in ones, the user's own, and what is wrong with some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.errors import TargetError, UsageError
from graphopt.targets import cpu, target
from graphopt.targets.target import list_targets, load_target


def test_the_targets_of_the_design_are_there() -> None:
    assert list_targets() == ("onnx", "openvino", "ort-arm", "ort-avx2", "ort-cpu", "ort-cuda", "qnn", "tensorrt", "tensorrt-rtx")
    for name in list_targets():
        found = load_target(name)
        assert found.name == name and found.title and ".onnx" in found.emit and "" in found.domains


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UsageError) as e:
        load_target("ort-cpo")
    assert str(e.value) == (
        "no target is called 'ort-cpo'\n  did you mean 'ort-cpu'? Known: "
        "auto, onnx, openvino, ort-arm, ort-avx2, ort-cpu, ort-cuda, qnn, tensorrt, tensorrt-rtx; or give a .toml file"
    )


def test_a_target_without_a_placement_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as e:
        load_target(write(tmp_path, 'name = "npu"\ntitle = "ours"\n')).require_quant()
    assert str(e.value).startswith(
        "target 'npu': int8 placement is not described for this target\n  quantize for one of: onnx, "
    )
    assert e.value.exit_code == 6


def test_ort_cpu_is_asymmetric_and_tensorrt_symmetric() -> None:
    ort, trt = load_target("ort-cpu").require_quant(), load_target("tensorrt-rtx").require_quant()
    assert (ort.activation, ort.symmetric, ort.bias) == ("uint8", False, "int32")
    assert (trt.activation, trt.symmetric, trt.bias) == ("int8", True, "float")
    assert ort.weighted["Conv"].output == "through-redundant-activation"
    assert {row.output for row in trt.weighted.values()} == {"never"}
    assert ort.weighted["Gemm"].axis_if == {"transB": (1, 0)}
    assert "ConvTranspose" in ort.float and trt.weighted["ConvTranspose"].axis == 1


def test_onnx_places_like_ort_cpu_but_takes_standard_operators_only() -> None:
    ort = load_target("ort-cpu").require_quant()
    assert load_target("onnx").require_quant() == replace(ort, per_channel_domain="")
    assert load_target("ort-cpu").takes("com.microsoft", 1)
    assert not load_target("onnx").takes("com.microsoft", 1)


def test_a_limit_on_the_opset() -> None:
    found = load_target("tensorrt")
    assert found.takes("", 25) and not found.takes("", 26)


def test_auto_is_ort_cpu_with_the_flags_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for exact in (True, False):
        monkeypatch.setattr(target, "multiplies_bytes_exactly", lambda e=exact: e)
        assert load_target("auto").require_quant().reduce_range is (not exact)


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", {"avx2"}, False),
        ("x86_64", {"avx2", "avx512_vnni"}, True),
        ("x86_64", {"avx2", "amx_int8"}, True),
        ("AMD64", set(), True),
        ("aarch64", {"asimd"}, True),
    ],
)
def test_processors_that_saturate(monkeypatch: pytest.MonkeyPatch, machine: str, flags: set[str], exact: bool) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(flags))
    assert cpu.multiplies_bytes_exactly() is exact


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_target_of_the_users_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'name = "npu"\ntitle = "ours"\n[quant]\nactivation = "int8"\n[quant.weighted.Conv]\noutput = "always"\n',
    )
    table = load_target(path).require_quant()
    assert table.activation == "int8" and table.weighted["Conv"].output == "always"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML: "),
        ('title = "x"\n', "the key 'name' is missing or is no text"),
        ('name = "x"\ntitle = "x"\ndomain = {}\n', "unknown key 'domain'\n  did you mean 'domains'?"),
        (
            'name = "x"\ntitle = "x"\n[quant]\nsymetric = true\n',
            "unknown key 'symetric'\n  did you mean 'symmetric'?",
        ),
        (
            'name = "x"\ntitle = "x"\n[quant]\nactivation = "int4"\n',
            "activation is 'int4'\n  did you mean 'int8'?",
        ),
        (
            'name = "x"\ntitle = "x"\n[quant.weighted.Conv]\noutput = "alway"\n',
            "output is 'alway'\n  did you mean 'always'?",
        ),
        ('name = "x"\ntitle = "x"\ndomains = 3\n', "a value has the wrong type: "),
    ],
)
def test_files_that_describe_no_target(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as e:
        load_target(write(tmp_path, text))
    assert message in str(e.value) and str(e.value).startswith(str(tmp_path))


def test_a_target_that_extends_another_says_only_what_differs(tmp_path: Path) -> None:
    ort, arm, old = (load_target(name) for name in ("ort-cpu", "ort-arm", "ort-avx2"))
    assert arm.require_quant() == replace(ort.require_quant(), activation="int8", reduce_range=False)
    assert old.require_quant() == replace(ort.require_quant(), reduce_range=True)
    assert old.kinds.figures == ort.kinds.figures
    assert old.measured == ort.measured and old.compiled_by == "onnxruntime" and old.notes != ort.notes
    mine = write(tmp_path, 'extends = "ort-cpu"\nname = "mine"\ntitle = "t"\n[quant.weighted.Conv]\nmin_k = 3\n')
    found = load_target(mine).require_quant()
    assert found.weighted["Conv"] == replace(ort.require_quant().weighted["Conv"], min_k=3)
    assert found.weighted["Gemm"] == ort.require_quant().weighted["Gemm"]
    with pytest.raises(UsageError, match="extends cannot be 'ort-cpo'"):
        load_target(write(tmp_path, 'extends = "ort-cpo"\nname = "mine"\ntitle = "t"\n'))


def test_a_section_may_extend_that_of_another_target(tmp_path: Path) -> None:
    table, head = load_target("tensorrt").require_quant(), 'name = "mine"\ntitle = "t"\n'
    body = '[quant]\nextends = "tensorrt"\nrest = "bfloat16"\n[quant.weighted.Conv]\nmin_channels = 3\n'
    mine = load_target(write(tmp_path, head + body))
    assert mine.require_quant().weighted["Conv"] == replace(table.weighted["Conv"], min_channels=3)
    assert mine.require_quant().weighted["MatMul"] == table.weighted["MatMul"]
    assert (mine.require_quant().rest, mine.domains, mine.kinds.weights, mine.avoid) == ("bfloat16", {"": 0}, "", {})
    kinds = load_target(write(tmp_path, f'{head}[kinds]\nextends = "ort-cpu"\nweights = "blocks"\n')).kinds
    assert kinds == replace(load_target("ort-cpu").kinds, weights="blocks", measured=kinds.measured)
    assert kinds.figures.tables
    with pytest.raises(UsageError, match=r"mine.toml, \[quant\]: extends cannot be 'tensorr'"):
        load_target(write(tmp_path, head + '[quant]\nextends = "tensorr"\n'))


TYPES = 'name = "x"\ntitle = "x"\n[quant]\n[quant.weighted.Conv]\naxis = 0\n{}'


def test_other_types_say_in_what_they_differ(tmp_path: Path) -> None:
    text = TYPES.format('[quant.types.uint16.weighted.Conv]\nmin_k = 3\n[quant.refused]\nint16 = "why"\n')
    table = load_target(write(tmp_path, text)).require_quant()
    wide = table.types["uint16"]
    assert (wide.activation, wide.weight, wide.types, wide.refused) == ("uint16", "int8", {}, {})
    assert wide.weighted["Conv"] == replace(table.weighted["Conv"], min_k=3) and table.refused == {"int16": "why"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[quant.types.float8]\n", "[quant], types: unknown key 'float8'\n  did you mean 'float8e5m2'?"),
        ('[quant.types.uint16]\nweight = "int16"\n', "[quant], types.uint16: weight is 'int16'"),
        ("[quant.types.uint16]\nopsets = 3\n", "[quant], types.uint16: unknown key 'opsets'"),
    ],
)
def test_types_that_are_none(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(UsageError) as e:
        load_target(write(tmp_path, TYPES.format(row)))
    assert message in str(e.value)


def test_a_row_of_the_other_target_can_be_left_out(tmp_path: Path) -> None:
    table = load_target("tensorrt").require_quant()
    text = 'extends = "tensorrt"\nname = "mine"\ntitle = "t"\n[quant.weighted]\nConv = false\n[kinds]\nrefused = false\n'
    mine = load_target(write(tmp_path, text))
    assert set(mine.require_quant().weighted) == set(table.weighted) - {"Conv"} and mine.kinds.refused == {}
