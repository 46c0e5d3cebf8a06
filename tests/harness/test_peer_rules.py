"""The benchmark of comparison rules: each as its project has it, blind spots included, and tables as promised."""

import math
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
from torch import Tensor

from benchmarks import comparison_rules as rules
from benchmarks import peer_rules, trials
from benchmarks.comparison_rules import RULES, Answer, Rule
from benchmarks.drawn_inputs import (
    CALLS,
    NEEDLE,
    NORMAL,
    NORMAL_E4M3,
    QUERIES,
    SMALL_NORMAL,
    TINY,
    UNIFORM,
    Call,
    Problem,
)
from benchmarks.trials import Measured, Tally, Trial
from conformance.budget import error_bound
from conformance.rounding import RoundingProfile
from tests.harness.defects import DEFECTS

PLAIN = CALLS["noncausal"][0]


def named(rule: Rule) -> str:
    return f"{rule.name}, {rule.draw.name}"


every_rule = pytest.mark.parametrize("rule", RULES, ids=named)


def answer(problem: Problem, out: Tensor | None = None) -> Answer:
    """The exact output, or another, without an lse."""
    return Answer(problem, problem.stored if out is None else out, None, RoundingProfile.flash(problem.case.dtype))


def spoiled(problem: Problem, elements: int, value: float) -> Answer:
    out = problem.stored.clone()
    out.view(-1)[:elements] = value
    return answer(problem, out)


# -- the rules ---------------------------------------------------------------------------------------------------------


@every_rule
def test_a_rule_passes_the_exact_output_and_fails_a_gross_error(rule: Rule) -> None:
    problem = PLAIN.problem(rule.draw, 512, 0)
    assert rule.passes(answer(problem))
    assert not rule.passes(answer(problem, problem.stored + 1))


@every_rule
def test_a_rule_names_its_source(rule: Rule) -> None:
    assert rule.source.startswith("As in ")


LET_ONE_NAN_THROUGH = {"AITER unified 3-D", "AITER unified fp8, scaled", "AITER pa_v1"}


@every_rule
def test_who_lets_one_nan_through(rule: Rule) -> None:
    passes = rule.passes(spoiled(PLAIN.problem(rule.draw, 512, 0), 1, math.nan))
    assert passes == (rule.name in LET_ONE_NAN_THROUGH)


@every_rule
def test_who_lets_nothing_but_nan_through(rule: Rule) -> None:
    """`|out - want| > tolerance` is false of NaN, of however many elements."""
    problem = PLAIN.problem(rule.draw, 512, 0)
    passes = rule.passes(answer(problem, torch.full_like(problem.stored, math.nan)))
    assert passes == (rule.name == "AITER unified fp8, scaled")


@every_rule
def test_who_takes_zeros_for_an_answer(rule: Rule) -> None:
    """The mean of 2,045 numbers within 0.001 has a scatter of 1.3e-5: all of it is within 1e-4."""
    problem = PLAIN.problem(rule.draw, 2048, 0)
    passes = rule.passes(answer(problem, torch.zeros_like(problem.stored)))
    assert passes == (rule.draw is TINY or rule.name.startswith("AITER unified fp8"))


@pytest.mark.parametrize("passes", [rules.aiter_unified_3d, rules.aiter_pa_v1])
def test_one_element_in_a_hundred_may_be_anything(passes: rules.Passes) -> None:
    problem = PLAIN.problem(NORMAL, 512, 0)
    hundredth = problem.stored.numel() // 100
    assert passes(spoiled(problem, hundredth, 1e30))
    assert not passes(spoiled(problem, hundredth + 1, 1e30))


def test_flashinfer_bench_fails_what_is_off_both_ways() -> None:
    problem = PLAIN.problem(NORMAL, 64, 0)
    out = problem.stored.float()
    assert rules.flashinfer_bench(answer(problem, out * 1.009))
    assert rules.flashinfer_bench(answer(problem, out + 0.009))
    assert not rules.flashinfer_bench(answer(problem, out * 1.011 + 0.011 * out.sign()))


def test_flash_attention_3_looks_at_the_mean_too() -> None:
    problem = PLAIN.problem(NORMAL, 512, 0)
    largest = (problem.low.float() - problem.stored.float()).abs().max()
    everywhere_as_much = answer(problem, problem.stored.float() + largest)
    assert rules.flash_attention(everywhere_as_much)
    assert not rules.flash_attention_3(everywhere_as_much)
    assert not rules.flash_attention(answer(problem, problem.stored.float() + 3.1 * largest))


def test_one_maximum_over_a_batch_hides_its_long_sequence() -> None:
    problem = PLAIN.problem(NORMAL, 2048, 0, ragged=True)
    low = (problem.low.float() - problem.stored.float()).abs()
    wrong = problem.stored.float()
    wrong[QUERIES:] += 4 * low[QUERIES:].max() + 1e-4
    assert rules.flash_attention(answer(problem, wrong))
    assert not rules.flash_attention_by_sequence(answer(problem, wrong))
    assert rules.flash_attention_by_sequence(answer(problem))


# -- what they compare with --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", ["q", "k"])
@pytest.mark.parametrize("call", [call for calls in CALLS.values() for call in calls], ids=str)
def test_the_16_bit_run_is_attention(call: Call, scaled: str) -> None:
    """The scaled operand, the scores and, twice, the capped scores are rounded: four times the error of one."""
    problem = call.problem(NORMAL, 64, 0)
    out = problem.low if scaled == "k" else problem.low_scaled_q
    profile = RoundingProfile(out="bf16", p="bf16", scaled_q="bf16")
    assert ((out.double() - problem.want.out).abs() <= 4 * error_bound(problem.want, profile, problem.case)).all()
    assert not torch.equal(out, problem.stored)


def test_inputs_are_drawn_as_they_say() -> None:
    caches = {draw: PLAIN.problem(draw, 512, 0).inputs.v_cache.float() for draw in (UNIFORM, TINY, SMALL_NORMAL)}
    assert 0.99 < caches[UNIFORM].abs().max() <= 1
    assert 0.99e-3 < caches[TINY].abs().max() <= 1.01e-3  # as bf16
    assert float(caches[SMALL_NORMAL].std()) == pytest.approx(0.1, rel=0.02)
    inputs = PLAIN.problem(NORMAL_E4M3, 512, 0).inputs
    assert torch.equal(inputs.k_cache, inputs.k_cache.to(torch.float8_e4m3fn).to(torch.bfloat16))
    assert not torch.equal(inputs.q, inputs.q.to(torch.float8_e4m3fn).to(torch.bfloat16))


@pytest.mark.parametrize("draw", [NORMAL, NEEDLE, UNIFORM])
def test_another_seed_draws_anew(draw: rules.Draw) -> None:
    first, second = (PLAIN.problem(draw, 512, seed).inputs.q for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, PLAIN.problem(draw, 512, 0).inputs.q)


# -- counting ----------------------------------------------------------------------------------------------------------

ONE, OTHER = (Trial("a defect", mode, calls[0]) for mode, calls in CALLS.items())


def test_caught_is_in_every_mode_and_with_every_seed() -> None:
    tally = Tally()
    assert tally.catches([0], "a defect", 64) is None
    tally.shown |= {(ONE, 64): [True, True], (OTHER, 64): [True, True], (ONE, 512): [True, False]}
    tally.caught |= {(0, ONE, 64): [True, True], (0, OTHER, 64): [True, False]}
    tally.caught |= {(1, ONE, 64): [False, False], (1, OTHER, 64): [True, True]}
    assert tally.catches([0], "a defect", 64) is False
    assert tally.catches([0, 1], "a defect", 64) is True  # each mode by one of them
    assert tally.catches([0], "a defect", 512) is None  # a seed does not show it
    assert tally.catches([0], "another", 64) is None


@pytest.mark.parametrize(
    ("caught", "cell"),
    [((), "-"), ((64, 512, 2048), "all"), ((64, 512), "512"), ((512,), "512*"), ((64, 2048), "2,048*")],
)
def test_the_longest_context_is_starred_where_it_was_not_reached_without_a_miss(
    caught: tuple[int, ...], cell: str
) -> None:
    tally, lengths = Tally(), [64, 512, 2048]
    for n in lengths:
        tally.shown[ONE, n] = [True]
        tally.caught[0, ONE, n] = [n in caught]
    assert peer_rules.longest(tally, 0, "a defect", lengths) == cell


def test_a_kernel_that_reads_past_its_memory_fails_every_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def past_the_end(*_: object) -> None:
        raise trials.Fault

    monkeypatch.setattr(trials.Defect, "answer", past_the_end)
    problem = PLAIN.problem(NORMAL, 64, 0)
    assert trials.answered(trials.Defect(trials.Flash()), problem) is None
    tally = Tally()
    trials._note(tally, RULES, ONE, None, answer(problem), 64)
    assert all(all(seeds) for seeds in tally.caught.values())
    assert tally.shown[ONE, 64] == [True]


# -- the command -------------------------------------------------------------------------------------------------------


SOME = {name: defect for at, (name, defect) in enumerate(DEFECTS.items()) if at % 3 == 0}


@pytest.fixture(scope="module")
def quick() -> str:
    """What a quick run prints, of every third defect."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        for module in (trials, peer_rules):
            patch.setattr(module, "DEFECTS", SOME)
        assert peer_rules.main(["--quick"]) == 0
    return printed.getvalue()


def table(report: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading, without the line under its head."""
    lines = report.partition(f"### {title}")[2].partition("\n### ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [rows[0], *rows[2:]]


def test_a_row_for_every_rule_and_a_column_for_every_length(quick: str) -> None:
    head, *rows = table(quick, "Caught, by rule and context length")
    assert [cell.split(" (")[0] for cell in head] == ["", "rule", "inputs", "64", "512", "false alarms"]
    assert [row[1:3] for row in rows] == [*([rule.name, rule.draw.name] for rule in RULES), ["ours, together", ""]]
    assert all(0 <= int(cell.removesuffix("%")) <= 100 for row in rows for cell in row[3:5])


def test_ours_raises_no_false_alarm(quick: str) -> None:
    rows = [row for row in table(quick, "Caught, by rule and context length") if row[1] == rules.OURS]
    assert len(rows) == 5
    assert all(row[-1].startswith("0 of ") and int(row[-1].split()[-1]) > 20 for row in rows)


def test_together_our_inputs_catch_no_less_than_each(quick: str) -> None:
    *rows, together = table(quick, "Caught, by rule and context length")[-6:]
    for column in (3, 4):
        assert int(together[column][:-1]) >= max(int(row[column][:-1]) for row in rows)


def test_every_defect_is_in_the_table_or_said_to_be_hidden(quick: str) -> None:
    head, *rows = table(quick, "Longest context at which a defect is caught")
    assert head == ["defect", *(str(at + 1) for at in range(len(RULES)))]
    shown, hidden = {row[0] for row in rows}, quick.partition("### Not shown by these outputs")[2]
    for defect in SOME:
        assert (defect in shown) or (defect in hidden), defect
    assert {cell for row in rows for cell in row[1:]} <= {"all", "-", "64", "64*", "512", "512*"}


def test_the_ragged_table_has_both_shares(quick: str) -> None:
    head, *rows = table(quick, "A ragged batch")
    assert head == ["rule", "inputs", "512"]
    assert len(rows) == len(rules.RAGGED_RULES)
    assert all(len(row[2].split(" / ")) == 2 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", "0"], "not a positive number: '0'"),
        (["--lengths", "31"], "not a number of at least 32: '31'"),
        (["--lengths", "long"], "not a number of at least 32: 'long'"),
    ],
)
def test_bad_usage(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        peer_rules.main(arguments)
    assert exit.value.code == 2
    assert says in capsys.readouterr().err


def test_an_interrupted_run_keeps_the_lengths_it_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object, lengths: list[int], seeds: int) -> Iterator[Measured]:
        yield Measured(seeds, [lengths[0]])
        raise KeyboardInterrupt

    monkeypatch.setattr(peer_rules, "choose", lambda: ([], []))
    monkeypatch.setattr(peer_rules, "measure", interrupted)
    assert peer_rules.main(["--quick"]) == 3
    shown = capsys.readouterr()
    assert "interrupted: 1 of 2 lengths finished" in shown.err
    assert table(shown.out, "Caught, by rule and context length")[0][3] == "64 (0)"
