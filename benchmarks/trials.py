"""Every rule over every planted defect and every correct kernel, at every context length and with every seed."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.comparison_rules import OURS, RAGGED_RULES, RULES, Answer, Rule
from benchmarks.drawn_inputs import CALLS, NEEDLE, NORMAL, NORMAL_FP16, QUERIES, Call, Draw, Problem
from tests.harness.correct import CORRECT
from tests.harness.defects import DEFECTS, Defect
from tests.harness.flash import Fault, Flash

PROBE = 512
"""The length at which a defect's call is chosen."""

POISON = ("poison.tails", "poison.pages", "poison.garbage")


@dataclass(frozen=True)
class Trial:
    """A defect in one of its modes, in the first call that shows it."""

    defect: str
    mode: str
    call: Call


@dataclass
class Tally:
    """What came out, by seed; `rule` is the rule's place in its list."""

    shown: dict[tuple[Trial, int], list[bool]] = field(default_factory=lambda: defaultdict(list))
    caught: dict[tuple[int, Trial, int], list[bool]] = field(default_factory=lambda: defaultdict(list))
    alarms: dict[tuple[int, int], list[bool]] = field(default_factory=lambda: defaultdict(list))

    def merge(self, other: "Tally") -> None:
        """Take in what another tally holds of one more length."""
        self.shown.update(other.shown)
        self.caught.update(other.caught)
        self.alarms.update(other.alarms)

    def counted(self, defect: str, length: int) -> list[Trial]:
        """The trials of a defect that change unit normal output in every seed at this length."""
        return [
            trial for (trial, n), seeds in self.shown.items() if (trial.defect, n) == (defect, length) and all(seeds)
        ]

    def catches(self, rules: Sequence[int], defect: str, length: int) -> bool | None:
        """Whether in each of its modes a rule fails the defect with every seed; None where no output shows it."""
        trials = self.counted(defect, length)
        if not trials:
            return None
        return all(any(all(self.caught[rule, trial, length]) for rule in rules) for trial in trials)


@dataclass
class Measured:
    """All that the tables are made of; `lengths` are those that were finished."""

    seeds: int
    lengths: list[int] = field(default_factory=list)
    even: Tally = field(default_factory=Tally)
    long_only: Tally = field(default_factory=Tally)
    both: Tally = field(default_factory=Tally)


def answered(defect: Defect, problem: Problem) -> Answer | None:
    """A kernel's answer, with the rounding it declares; None where it read past its memory, which fails any test."""
    try:
        return Answer(problem, *defect.answer(problem.case, problem.inputs))
    except Fault:
        return None


def correct(problem: Problem) -> Answer:
    """The answer of the kernel that all defects are made from."""
    return Answer(problem, *Defect(Flash()).answer(problem.case, problem.inputs))


def differs(answer: Answer | None, right: Answer) -> bool:
    """In any bit of the output."""
    return answer is None or not torch.equal(answer.out, right.out)


def choose() -> tuple[list[Trial], list[tuple[str, str]]]:
    """The trials, and the (defect, mode) pairs whose output equals the correct kernel's bit for bit in every call."""
    problems = {call: call.problem(NORMAL, PROBE, 0) for calls in CALLS.values() for call in calls}
    right = {call: correct(problem) for call, problem in problems.items()}
    trials, hidden = [], []
    for name, defect in DEFECTS.items():
        for mode in defect.modes:
            shows = (c for c in CALLS[mode] if differs(answered(defect, problems[c]), right[c]))
            if call := next(shows, None):
                trials.append(Trial(name, mode, call))
            else:
                hidden.append((name, mode))
    return trials, hidden


def why_hidden(name: str, mode: str) -> str:
    """What tells a defect whose output is right, bit for bit, on these inputs."""
    defect, call = DEFECTS[name], CALLS[mode][0]
    ours = next(rule for rule in RULES if rule.name == OURS)
    for draw in (NORMAL, NEEDLE):
        answer = answered(defect, call.problem(draw, PROBE, 0))
        if answer and not ours.passes(answer):
            return "needs its lse checked" if answer.lse is not None else "needs its declared rounding checked"
    for draw in (NORMAL_FP16, *(Draw(regime, regime=regime) for regime in POISON)):
        answer = answered(defect, call.problem(draw, PROBE, 0))
        if answer is None or not ours.passes(answer):
            return f"needs inputs of another kind: {draw.name}"
    return "needs calls of another kind"


def measure(trials: list[Trial], lengths: list[int], seeds: int) -> Iterator[Measured]:
    """All rules over all trials, a length after the other: what is yielded is whole for the lengths it names."""
    measured, started, done = Measured(seeds), time.monotonic(), 0
    draws = list(dict.fromkeys(rule.draw for rule in RULES))
    work = len(draws) * sum(map(_work, lengths))
    for length in lengths:
        even, long_only, both = Tally(), Tally(), Tally()
        for draw in draws:
            for seed in range(seeds):
                _try_all(even, trials, draw, length, seed)
                if any(rule.draw is draw for rule in RAGGED_RULES):
                    _try_ragged(long_only, both, trials, draw, length, seed)
            done, spent = done + _work(length), time.monotonic() - started
            left = spent * (work - done) / done
            print(f"{spent:6.0f} s, about {left:.0f} s left: {length} keys, {draw.name}", file=sys.stderr, flush=True)
        for total, part in ((measured.even, even), (measured.long_only, long_only), (measured.both, both)):
            total.merge(part)
        measured.lengths.append(length)
        yield measured


def _work(length: int) -> int:
    """What a length costs, in keys: a call takes as long as some hundreds of them before it reads the first."""
    return length + 500


def _try_all(tally: Tally, trials: list[Trial], draw: Draw, length: int, seed: int) -> None:
    for call in dict.fromkeys(trial.call for trial in trials):
        problem = call.problem(draw, length, seed)
        right = correct(problem)
        for trial in (trial for trial in trials if trial.call == call):
            answer = answered(DEFECTS[trial.defect], problem)
            _note(tally, RULES, trial, answer, right, length)
        for answer in [right, *_correct_kernels(problem, call)]:
            for at, rule in enumerate(RULES):
                if rule.draw is draw:
                    tally.alarms[at, length].append(not rule.passes(answer))


def _correct_kernels(problem: Problem, call: Call) -> Iterator[Answer]:
    """All of them on plain calls; elsewhere the one that defects are made from will do."""
    for kernel in CORRECT.values() if call.name == "plain" else ():
        yield Answer(problem, *kernel(problem.case, problem.inputs), kernel.profile(problem.case))


def _try_ragged(long_only: Tally, both: Tally, trials: list[Trial], draw: Draw, length: int, seed: int) -> None:
    """A short and a long sequence: the defect in both, and in the long one alone."""
    for calls in CALLS.values():
        problem = calls[0].problem(draw, length, seed, ragged=True)
        right = correct(problem)
        for trial in (trial for trial in trials if trial.call == calls[0]):
            answer = answered(DEFECTS[trial.defect], problem)
            _note(both, RAGGED_RULES, trial, answer, right, length)
            if answer:
                out = torch.cat((right.out[:QUERIES], answer.out[QUERIES:]))
                answer = Answer(problem, out, None, answer.profile)
            _note(long_only, RAGGED_RULES, trial, answer, right, length)


def _note(tally: Tally, rules: list[Rule], trial: Trial, answer: Answer | None, right: Answer, length: int) -> None:
    """What counts as shown is decided on unit normal inputs, for all rules: inputs that hide a defect miss it."""
    draw = right.problem.draw
    if draw is NORMAL:
        tally.shown[trial, length].append(differs(answer, right))
    for at, rule in enumerate(rules):
        if rule.draw is draw:
            tally.caught[at, trial, length].append(answer is None or not rule.passes(answer))
