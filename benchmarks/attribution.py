"""Is the right cause named? Every planted defect of tests/harness on cases of the smoke tier that show it.

    python -m benchmarks.attribution [--cases N] [--only WORD] [--noise N]

Right causes are declared in `tests.harness.right_causes`. Correct kernels, with noise added until the judge fails them,
must be attributed to nothing.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from time import process_time

import torch
from torch import Tensor

from conformance.case import Case
from conformance.execute import exact
from conformance.inputs import Inputs, make
from conformance.judge import judge
from conformance.manifest import cases
from conformance.rounding import RoundingProfile
from conformance.status import Status
from conformance.triage.attribution import Attribution, attribute
from reference import Attention
from tests.harness.correct import CORRECT
from tests.harness.defects import DEFECTS, Defect
from tests.harness.right_causes import RIGHT_CAUSES

SHOWN_AS = (Status.MISMATCH, Status.NONFINITE)
"""What has an output: a kernel that faults has none, and says itself what is wrong."""


@dataclass(frozen=True)
class Trial:
    """A defect in a case, what was named and in how many seconds of CPU time."""

    defect: str
    case: Case
    found: Attribution
    seconds: float

    @property
    def outcome(self) -> str:
        """How the right cause was found."""
        right, names = RIGHT_CAUSES[self.defect], self.found.names
        if not right or not names:
            return "first" if bool(right) == bool(names) else "named none" if right else "named wrongly"
        if names[0] in right:
            return "alone" if len(names) == 1 else "first"
        if set(right) & set(names):
            return "among those that cannot be told apart"
        later = [each.name for group in self.found.explains[1:] for each in (group, *group.alike)]
        return "later" if set(right) & set(later) else "named wrongly"


RIGHT = ("alone", "first", "among those that cannot be told apart")
"""Outcomes that name the right cause in the best explanation."""


def trials(count: int, only: str = "") -> Iterator[Trial]:
    """Each defect in each of its modes on `count` cases at most that show it, small ones and needles among them."""
    for name, defect in DEFECTS.items():
        if only in name and defect.status in SHOWN_AS:
            for mode in defect.modes:
                yield from _of(name, defect, mode, count)


def _of(name: str, defect: Defect, mode: str, count: int) -> Iterator[Trial]:
    some = [Case.parse(defect.seen_by.format(mode))] if defect.seen_by else cases("smoke")
    found = 0
    for case in some:
        if case.causal is not (mode == "causal") or found == count:
            continue
        inputs, want = _problem(case)
        if defect.verdict(case, inputs, want).status not in SHOWN_AS:
            continue
        found += 1
        out, lse, profile = defect.answer(case, inputs)
        began = process_time()
        yield Trial(name, case, attribute(case, inputs, want, out, lse, profile), process_time() - began)


_problems: dict[Case, tuple[Inputs, Attention]] = {}


def _problem(case: Case) -> tuple[Inputs, Attention]:
    if case not in _problems:
        inputs = make(case)
        _problems[case] = inputs, exact(case, inputs)
    return _problems[case]


def noisy(count: int) -> Iterator[tuple[str, Case, Attribution]]:
    """Correct kernels on `count` cases of the smoke tier, with noise added until the judge fails them."""
    every = cases("smoke")
    for at, (name, kernel) in enumerate(CORRECT.items()):
        for case in every[at :: max(1, len(every) // max(1, count))][:count]:
            inputs, want = _problem(case)
            out, profile = kernel(case, inputs)[0], kernel.profile(case)
            spoiled = just_outside(case, want, out, profile)
            if spoiled is not None:
                yield name, case, attribute(case, inputs, want, spoiled, None, profile)


def just_outside(case: Case, want: Attention, out: Tensor, profile: RoundingProfile) -> Tensor | None:
    """An output with so much noise that the judge just fails it; None for one that is no number, or all 0."""
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise *= want.out.abs().mean()
    if not bool(want.out.any()):
        return None
    size = 2.0**-12
    while True:
        spoiled = (out.double() + size * noise).to(out.dtype)
        if judge(case, want, spoiled, None, profile).status is Status.MISMATCH:
            return spoiled
        size *= 1.1


def main() -> None:
    """Print a line for each trial that went wrong, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3, help="for each defect and mode (default: 3)")
    parser.add_argument("--only", default="", help="defects whose name has this in it")
    parser.add_argument("--noise", type=int, default=8, help="cases for each correct kernel (default: 8)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    seconds = []
    for trial in trials(options.cases, options.only):
        outcomes[trial.outcome] += 1
        seconds.append(trial.seconds)
        if trial.outcome not in ("alone", "first"):
            found = trial.found.names or [f"none; partly {each.name} {each.share:.2f}" for each in trial.found.partly]
            print(f"{trial.outcome}: {trial.defect}: {', '.join(found)}   {trial.case.id}", flush=True)
    total = sum(outcomes.values())
    right = sum(outcomes[name] for name in RIGHT)
    for name, number in outcomes.most_common():
        print(f"{number:5d}  {name}")
    if total:
        print(f"right cause in the best explanation: {right} of {total} ({right / total:.1%})")
        print(f"CPU seconds: median {sorted(seconds)[total // 2]:.2f}, most {max(seconds):.2f}")
    named = [(name, case, found) for name, case, found in noisy(options.noise) if found.explains]
    for name, case, found in named:
        print(f"noise named: {name}: {', '.join(found.names)}   {case.id}")
    print(f"correct kernels, noisy: {len(named)} attributed to something")


if __name__ == "__main__":
    main()
