"""The fuzz tier: it finds what is wrong, makes it small, gives an id that replays it, and ends as it is told to."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import combinations
from time import monotonic

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor

from conformance.__main__ import main
from conformance.axes import HEAD_DIM
from conformance.backends import Attend, Backend
from conformance.backends.torch import attend as right
from conformance.case import Case
from conformance.cost import seconds
from conformance.drawing import DEAR, cases
from conformance.execute import run
from conformance.fuzz import SLOW_IS_FINE, Fuzz, kinds
from conformance.inputs import Inputs
from conformance.status import Status, Unsupported
from conformance.system import System
from tests.harness.test_axes import cache_bytes

SEED = 7

FEATURES = ("softcap", "alibi", "sinks", "cache_dtype", "max_keys", "scale", "fused_q")


def loses_the_last_value_of_long_sequences(case: Case, inputs: Inputs) -> Tensor:
    """A split that is rounded down: above 100 keys, the last value is never read."""
    v_cache = inputs.v_cache.clone()
    for row, n in zip(inputs.block_table, case.seq_lens, strict=True):
        if n > 100:
            v_cache[row[(n - 1) // case.page_size], (n - 1) % case.page_size] = 0
    return right(case, replace(inputs, v_cache=v_cache))


def raises_at_pages_of_one_key(case: Case, inputs: Inputs) -> Tensor:
    if case.page_size == 1:
        raise RuntimeError("a page of one key")
    return right(case, inputs)


def raises_or_is_wrong(case: Case, inputs: Inputs) -> Tensor:
    """Two defects: larger cases are wrong, and smaller ones raise."""
    if case.tokens > 3:
        return right(case, inputs) + 1
    if case.tokens > 1:
        raise RuntimeError("two or three tokens")
    return right(case, inputs)


def declines_float16(case: Case, inputs: Inputs) -> Tensor:
    if case.dtype == "fp16":
        raise Unsupported("bfloat16 alone")
    return right(case, inputs)


@dataclass
class Session:
    """A fuzz of one backend, and what it said."""

    fuzz: Fuzz
    said: list[str]


@pytest.fixture
def session() -> Callable[..., Session]:
    def session(attend: Attend, **options: object) -> Session:
        system = System(Backend("planted", attend), "cpu", None, ("--backend", "planted:attend"), defaulted=False)
        said: list[str] = []
        return Session(Fuzz(system, system.start(), said.append, **options), said)  # pyright: ignore[reportArgumentType]

    return session


# -- what is drawn -----------------------------------------------------------------------------------------------------


@given(cases())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
def test_what_is_drawn_is_a_case_that_fits_a_laptop(case: Case) -> None:
    assert Case.parse(case.id) == case
    assert cache_bytes(case) <= 2**28
    assert case.causal or not (case.softcap or case.alibi or case.sinks or case.cache_dtype or case.max_keys)


def test_what_is_drawn_is_of_every_kind_and_seldom_too_dear() -> None:
    drawn: list[Case] = []

    @given(cases())
    @settings(deadline=None, max_examples=1000, database=None, derandomize=True, phases=(Phase.generate,),
              suppress_health_check=SLOW_IS_FINE)  # fmt: skip
    def draw(case: Case) -> None:
        drawn.append(case)

    draw()
    assert sum(seconds(case) > DEAR for case in drawn) < 0.1 * len(drawn)
    for field in fields(Case):
        assert len({getattr(case, field.name) for case in drawn}) > 1, field.name
    some = [{name for name in FEATURES if getattr(case, name)} for case in drawn]
    together = {pair for pair in combinations(FEATURES, 2) if any(set(pair) <= has for has in some)}
    assert together == set(combinations(FEATURES, 2)), "no feature keeps another away"
    of_models = sum(case.head_dim in map(int, HEAD_DIM.levels) for case in drawn)
    assert 0.4 < of_models / len(drawn) < 0.8
    inside = [n for case in drawn for n in case.seq_lens if 300 < n < 500]
    assert len({n % 16 for n in inside}) > 8, "lengths are not only near edges"


def test_kinds_tell_of_any_sequence() -> None:
    some = kinds(Case.parse("decode-causal-bf16-b3-q1+8+2-h2:1-d16-p16-kv40+5+0-packed-poison.tails"))
    assert some >= {"causal", "short", "padded", "packed", "poison.tails", "mixed"}
    assert not kinds(Case.parse("decode-causal-bf16-b2-q2-h2:1-d16-p16-kv40+5-packed-random")) & {"short", "padded"}


# -- what is found -----------------------------------------------------------------------------------------------------


def test_a_correct_backend_passes(session: Callable[..., Session]) -> None:
    fuzzed = session(right)
    assert fuzzed.fuzz.go(25, SEED)
    counts = fuzzed.fuzz.counts
    assert counts[Status.PASS] == fuzzed.fuzz.ran == 25
    (line,) = fuzzed.said
    assert line.endswith(f"seed {SEED}")
    assert f"{counts[Status.PASS]} PASS" in line


def test_what_is_declined_is_no_case_that_ran(session: Callable[..., Session]) -> None:
    fuzzed = session(declines_float16)
    assert fuzzed.fuzz.go(10, SEED)
    assert fuzzed.fuzz.counts[Status.PASS] == fuzzed.fuzz.ran == 10
    assert fuzzed.fuzz.counts[Status.UNSUPPORTED]


def test_a_defect_is_found_and_made_small(session: Callable[..., Session]) -> None:
    fuzzed = session(loses_the_last_value_of_long_sequences)
    assert not fuzzed.fuzz.go(400, SEED)
    assert fuzzed.fuzz.smallest is not None
    case, verdict = fuzzed.fuzz.smallest
    assert verdict.status is Status.MISMATCH
    assert case.batch == 1
    assert case.tokens == case.q_heads == 1
    assert 100 < case.seq_lens[0] <= 128
    report = fuzzed.said[-1]
    assert report.startswith(f"MISMATCH  planted (cpu)   {case.id}\n")
    assert report.endswith(f"python -m conformance run --backend planted:attend --case {case.id}")
    replayed = run(Case.parse(case.id), fuzzed.fuzz.system.backend, fuzzed.fuzz.target)
    assert replayed.status is Status.MISMATCH


def test_shrinking_keeps_to_the_failure_that_was_found(session: Callable[..., Session]) -> None:
    fuzzed = session(raises_or_is_wrong)
    assert not fuzzed.fuzz.go(200, SEED)
    assert fuzzed.fuzz.smallest is not None
    case, verdict = fuzzed.fuzz.smallest
    assert (fuzzed.fuzz.counts[Status.MISMATCH], fuzzed.fuzz.counts[Status.ERROR]) == (1, 0)
    assert verdict.status is Status.MISMATCH
    assert case.tokens == 4


def test_the_same_seed_finds_the_same(session: Callable[..., Session]) -> None:
    found = []
    for _ in range(2):
        fuzzed = session(raises_at_pages_of_one_key)
        assert not fuzzed.fuzz.go(400, SEED)
        found.append((fuzzed.fuzz.smallest, fuzzed.fuzz.counts))
    assert found[0] == found[1]


def test_what_is_avoided_is_counted_and_not_run(session: Callable[..., Session]) -> None:
    ran: list[Case] = []
    avoid = frozenset({"noncausal", "padded"})
    fuzzed = session(right, avoid=avoid, before_each=ran.append)
    assert fuzzed.fuzz.go(20, SEED)
    assert fuzzed.fuzz.counts["avoided"] > 5
    assert len(ran) == 20 + fuzzed.fuzz.counts[Status.UNSUPPORTED]
    assert not any(kinds(case) & avoid for case in ran)


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_it_ends_when_the_time_is_over(session: Callable[..., Session]) -> None:
    fuzzed = session(right, seconds=1.0)
    started = monotonic()
    assert fuzzed.fuzz.go(10**6, SEED)
    assert monotonic() - started < 60, "a million cases would take days"
    assert fuzzed.fuzz.ran


def test_it_ends_at_an_interrupt_with_what_it_has(session: Callable[..., Session]) -> None:
    def interrupted(case: Case, inputs: Inputs) -> Tensor:
        if fuzzed.fuzz.counts[Status.PASS] == 3:
            raise KeyboardInterrupt
        return right(case, inputs)

    fuzzed = session(interrupted)
    assert fuzzed.fuzz.go(10**6, SEED)
    assert fuzzed.said[-1].startswith("interrupted; ")
    assert "3 PASS" in fuzzed.said[-1]


def test_an_interrupt_while_shrinking_keeps_the_failure(session: Callable[..., Session]) -> None:
    failures = []

    def interrupted(case: Case, inputs: Inputs) -> Tensor:
        failures.append(case)
        if len(failures) == 4:
            raise KeyboardInterrupt
        raise RuntimeError("wrong")

    fuzzed = session(interrupted)
    assert not fuzzed.fuzz.go(10**6, SEED)
    assert "ERROR  planted (cpu)" in fuzzed.said[-1]


@pytest.mark.parametrize(("limit", "code"), [(["--cases", "9"], 3), (["--seconds", "99"], 3), ([], 0)])
def test_an_interrupt_is_the_end_only_where_none_was_set(
    limit: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(case: Case, inputs: Inputs) -> Tensor:
        raised.append(case)
        if len(raised) == 3:
            raise KeyboardInterrupt
        return right(case, inputs)

    raised: list[Case] = []
    monkeypatch.setattr("tests.harness.answers.right", interrupted)
    assert main(["fuzz", "--backend", "tests.harness.answers:right", "--target", "cpu", *limit]) == code
    assert capsys.readouterr().out.endswith("INTERRUPTED.\n" if limit else "CONFORMANT.\n")


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["fuzz"], ["run", "--tier", "fuzz"]], ids=["fuzz", "run"])
def test_the_command_passes_a_correct_backend(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--backend", "torch", "--target", "cpu", "--cases", "4", "--seed", "3", "-v"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"conformance \S+: tier fuzz, backend torch, target cpu", lines[0])
    assert [Case.parse(line) for line in lines if line.startswith("decode-")]
    assert lines[-2].endswith("seed 3")
    assert lines[-1] == "CONFORMANT."


def test_the_command_fails_a_wrong_backend(capsys: pytest.CaptureFixture[str]) -> None:
    backend = "tests.harness.answers:wrong"
    assert main(["fuzz", "--backend", backend, "--target", "cpu", "--cases", "8", "--seed", "3"]) == 1
    out = capsys.readouterr().out
    (repro,) = re.findall(rf"run --backend {backend} --target cpu --case (\S+)$", out, re.MULTILINE)
    assert Case.parse(repro).tokens == 1
    assert out.endswith("NOT CONFORMANT: a case fails.\n")


def test_a_backend_that_declines_everything_is_not_conformant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz", "--backend", "tests.harness.answers:declines", "--target", "cpu", "--cases", "3"]) == 3
    assert capsys.readouterr().out.endswith("NOTHING RAN.\n")


MISTAKES = {
    "none": (["fuzz", "--cases", "0"], "invalid positive number value: '0'"),
    "no time": (["fuzz", "--seconds", "inf"], "invalid positive number value: 'inf'"),
    "both": (["fuzz", "--cases", "1", "--seconds", "1"], "not allowed with argument"),
    "kind": (["fuzz", "--avoid", "8"], "no kind of case is called '8': there are absent, alibi"),
    "backend": (["fuzz", "--backend", "nope"], "unknown backend 'nope'"),
    "more": (["fuzz", "more"], "unrecognized arguments: more"),
    "record": (["run", "--tier", "fuzz", "--record", "r"], "draws its cases and keeps none: leave out --record"),
    "pytest": (["run", "--tier", "fuzz", "-x"], "unrecognized arguments: -x"),
    "list": (["list", "--tier", "fuzz"], "its cases are drawn by python -m conformance fuzz"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = MISTAKES[mistake]
    try:
        code = main(words)
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def test_without_hypothesis_a_sentence_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("conformance.fuzz", "conformance.drawing"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert main(["fuzz"]) == 2
    assert capsys.readouterr().err == "conformance: fuzz needs Hypothesis: python -m pip install hypothesis\n"
