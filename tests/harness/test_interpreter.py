"""The interpreter target computes what torch computes: bit for bit where both are exact or round once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.harness.scalar_kernel import by_halves

SMALL_FLOATS = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2fnuz": torch.float8_e5m2fnuz,
}
Outcomes = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Inputs and outputs of every kernel, as mended."""
    return interpret(tmp_path_factory.mktemp("mended"))


def interpret(folder: Path, *options: str) -> Outcomes:
    script = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, str(script), str(folder / "outcomes.pt"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    if not options:
        assert done.stderr == "", "an interpreted kernel warns of nothing"
    return torch.load(folder / "outcomes.pt")


def _environment() -> dict[str, str]:
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}


def assert_same_bits(found: torch.Tensor, right: torch.Tensor) -> None:
    """Equal bits; a NaN need only be a NaN, since torch's own payloads differ from one of its code paths to another."""
    assert (found.dtype, found.shape) == (right.dtype, right.shape)
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[found.dtype.itemsize]
    differ = found.view(integer) != right.view(integer)
    if found.is_floating_point():
        differ &= ~(found.float().isnan() & right.float().isnan())
    assert not differ.any(), (
        f"{int(differ.sum())} differ: {found[differ][:5].float()}, want {right[differ][:5].float()}"
    )


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_float32_rounds_to_nearest_even(outcomes: Outcomes, name: str) -> None:
    """Over every value, tie and neighbour of a tie: subnormals, overflow to infinity, infinities and NaN among them."""
    outcome = outcomes[f"float32 to {name}"]
    assert_same_bits(outcome["out"], outcome["in0"].to(SMALL_FLOATS[name]))


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"])
def test_float32_rounds_to_float8_as_torch_does(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"float32 to {name}"]
    assert_same_bits(outcome["out"], outcome["in0"].to(SMALL_FLOATS[name]))


@pytest.mark.parametrize("name", SMALL_FLOATS)
@pytest.mark.parametrize("other", ["float32", "bfloat16", "float16"])
def test_every_small_float_converts(outcomes: Outcomes, name: str, other: str) -> None:
    outcome = outcomes[f"{name} to {other}"]
    assert_same_bits(outcome["out"], outcome["in0"].to(torch.float32).to(getattr(torch, other)))


def test_bfloat16_narrows_to_float8(outcomes: Outcomes) -> None:
    outcome = outcomes["bfloat16 to e4m3fn"]
    assert_same_bits(outcome["out"], outcome["in0"].to(torch.float8_e4m3fn))


def test_integers_convert_by_value(outcomes: Outcomes) -> None:
    there, back = outcomes["int32 to bf16"], outcomes["bf16 to int32"]
    assert_same_bits(there["out"], there["in0"].to(torch.bfloat16))
    assert_same_bits(back["out"], back["in0"].to(torch.int32))


def test_rounding_towards_zero_drops_the_lower_half(outcomes: Outcomes) -> None:
    outcome = outcomes["towards zero"]
    lower_half_cleared = (outcome["in0"].view(torch.int32) & ~0xFFFF).view(torch.float32)
    assert_same_bits(outcome["out"].float(), lower_half_cleared)


@pytest.mark.parametrize("name", ["fp32", *SMALL_FLOATS])
def test_dot_multiplies_values_and_adds_to_its_accumulator(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"dot {name} float32"]
    a, b, acc = (outcome[f"in{i}"].float() for i in range(3))
    assert_same_bits(outcome["out"], a @ b + acc)


def test_dot_with_a_float16_accumulator(outcomes: Outcomes) -> None:
    outcome = outcomes["dot fp16 float16"]
    a, b, acc = (outcome[f"in{i}"].float() for i in range(3))
    assert_same_bits(outcome["out"], (a @ b + acc).half())


def test_dot_of_bfloat16_rounds_no_product(outcomes: Outcomes) -> None:
    """Products of unit normals sum to within float32 rounding, 2^-24 a term, of the exact sum: bfloat16's is 2^-9."""
    outcome = outcomes["dot noise"]
    a, b = outcome["in0"].double(), outcome["in1"].double()
    assert (outcome["out"] - a @ b).abs().max() < 32 * 2**-24 * (a.abs() @ b.abs()).max()


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_arithmetic_of_halves_rounds_each_result_once(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"calculate {name} {str(SMALL_FLOATS[name])[6:]}"]
    a, b, out = outcome["in0"], outcome["in1"], outcome["out"]
    quotient = (a.float() / b.float()).to(a.dtype)  # Triton divides halves in float32
    for row, right in enumerate((a + b, a - b, a * b, quotient, -a, a.abs(), torch.where(a > b, a, 1.5))):
        assert_same_bits(out[row], right)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_extremes_ignore_a_single_nan(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"calculate {name} {str(SMALL_FLOATS[name])[6:]}"]
    a, b, out = outcome["in0"].float(), outcome["in1"].float(), outcome["out"].float()
    assert_same_bits(out[7], torch.fmax(a, b))
    assert_same_bits(out[8], torch.fmin(a, b))


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_number_takes_the_type_of_a_tensor_but_an_argument_is_a_float32(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"calculate {name} float32"]
    a, out = outcome["in0"], outcome["out"]
    assert_same_bits(out[9], (a * torch.tensor(0.3).to(a.dtype)).float())
    assert_same_bits(out[10], a.float() * torch.tensor(0.3))


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_exp2_is_right_to_the_last_place_or_nearly(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"calculate {name} float32"]
    exact = outcome["in0"].double().exp2()
    assert ((outcome["out"][11] - exact).nan_to_num().abs() <= 2**-23 * exact.nan_to_num()).all()


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_multiply_add_keeps_its_operands_values(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"calculate {name} float32"]
    a, b, out = outcome["in0"].float(), outcome["in1"].float(), outcome["out"]
    error = (out[12] - (a * b + a)).nan_to_num().abs()
    assert (error <= 2**-8 * ((a * b).abs() + a.abs()).nan_to_num()).all()
    assert torch.equal(out[12].isnan(), (a * b).isnan())


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_reductions_of_rows(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"reduce {name}"]
    x, (largest, smallest, total) = outcome["in0"].float(), outcome["out"]
    hidden = x.isnan()
    none = hidden.all(1)
    right = x.masked_fill(hidden, -torch.inf).amax(1).masked_fill(none, torch.nan)
    assert_same_bits(largest, right)
    assert_same_bits(smallest, x.masked_fill(hidden, torch.inf).amin(1).masked_fill(none, torch.nan))
    # Triton sums in the type of its input, so that each addition rounds.
    assert_same_bits(total, by_halves(outcome["in0"]).float())


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_reduction_by_a_function_sees_values(outcomes: Outcomes, name: str) -> None:
    outcome = outcomes[f"reduce with function {name}"]
    assert_same_bits(outcome["out"], outcome["in0"].float().amax(1))


def test_masks_defaults_bounds_and_flags(outcomes: Outcomes) -> None:
    """A masked load gives its default, a loop may end at a tensor, a boolean is one, a masked store spares the rest."""
    right = torch.full((16,), 2.5)
    right[:5] = torch.arange(5.0)
    right += 5
    right[0] = -7
    assert_same_bits(outcomes["masked"]["out"], right.to(torch.bfloat16))


def test_shortcuts_change_no_result(outcomes: Outcomes, tmp_path: Path) -> None:
    """Every kernel, launched the long way, gives the same bits."""
    long_way = interpret(tmp_path, "--long-way")
    assert long_way.keys() == outcomes.keys()
    for name, outcome in long_way.items():
        found, right = outcomes[name]["out"], outcome["out"]
        assert torch.equal(found.view(torch.uint8), right.view(torch.uint8)), name
