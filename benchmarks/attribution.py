"""Is the right cause named? Every planted defect of tests/harness on cases of the smoke tier that show it.

    python -m benchmarks.attribution -j 2
    python -m benchmarks.attribution -j 2 --first 3        on other cases than that

Right causes are declared in `tests.harness.right_causes`. Correct kernels, with noise added until the judge fails them,
must be attributed to nothing.
"""

import argparse
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
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
from tests.harness.missteps import HUGE
from tests.harness.right_causes import RIGHT_CAUSES

SHOWN_AS = (Status.MISMATCH, Status.NONFINITE)
"""What has an output: a kernel that faults has none, and says itself what is wrong."""


@dataclass(frozen=True)
class Trial:
    """A defect in a case: how the right cause was found, what was named, and in how many seconds of CPU time."""

    defect: str
    case: Case
    outcome: str
    named: str
    seconds: float


def outcome(right: Collection[str], found: Attribution) -> str:
    """How the right cause was found: any of `right`, or that there is none."""
    names = found.names
    if not right or not names:
        return "first" if bool(right) == bool(names) else "named none" if right else "named wrongly"
    if names[0] in right:
        return "alone" if len(names) == 1 else "first"
    if set(right) & set(names):
        return "among those that cannot be told apart"
    later = [each.name for group in found.explains[1:] for each in (group, *group.alike)]
    return "later" if set(right) & set(later) else "named wrongly"


RIGHT = ("alone", "first", "among those that cannot be told apart")
"""Outcomes that name the right cause in the best explanation."""


def modes(only: str = "") -> Iterator[tuple[str, str]]:
    """Every defect that has an output, by name, in each of its modes."""
    for name, defect in DEFECTS.items():
        if only in name and defect.status in SHOWN_AS:
            yield from ((name, mode) for mode in defect.modes)


def trials(name: str, mode: str, first: int, count: int) -> list[Trial]:
    """A defect in one of its modes on `count` cases at most that show it, after the `first` that do."""
    torch.set_num_threads(1)
    defect = DEFECTS[name]
    some = [Case.parse(defect.seen_by.format(mode))] if defect.seen_by else cases("smoke")
    showing = (case for case in some if case.causal is (mode == "causal") and _shows(defect, case))
    return [_tried(name, case) for case in islice(showing, first, first + count)]


def _shows(defect: Defect, case: Case) -> bool:
    inputs, want = _problem(case)
    return defect.verdict(case, inputs, want).status in SHOWN_AS


def _tried(name: str, case: Case) -> Trial:
    inputs, want = _problem(case)
    out, lse, profile = DEFECTS[name].answer(case, inputs)
    began = process_time()
    found = attribute(case, inputs, want, out, lse, profile)
    spent = process_time() - began
    partly = [f"none; partly {each.name} {each.share:.2f}" for each in found.partly]
    return Trial(name, case, outcome(RIGHT_CAUSES[name], found), ", ".join(found.names or partly), spent)


_problems: dict[Case, tuple[Inputs, Attention]] = {}


def _problem(case: Case) -> tuple[Inputs, Attention]:
    if case not in _problems:
        inputs = make(case)
        _problems[case] = inputs, exact(case, inputs)
    return _problems[case]


Named = tuple[str, Case, list[str]]
"""A correct kernel, a case in which its output was spoiled, and what was named."""


def noisy(name: str, first: int, count: int) -> list[Named]:
    """A correct kernel on `count` cases of the smoke tier, from number `first` on, with noise until the judge fails it.

    Each kernel has its own cases, spread over the tier.
    """
    torch.set_num_threads(1)
    every, kernel, found = cases("smoke"), CORRECT[name], []
    for case in every[list(CORRECT).index(name) + first :: max(1, len(every) // max(1, count))][:count]:
        inputs, want = _problem(case)
        out, profile = kernel(case, inputs)[0], kernel.profile(case)
        spoiled = just_outside(case, want, out, profile)
        if spoiled is not None:
            found.append((name, case, attribute(case, inputs, want, spoiled, None, profile).names))
    return found


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
    parser.add_argument("--first", type=int, default=0, help="leave out so many cases first: what was tuned on them")
    parser.add_argument("--only", default="", help="defects whose name has this in it")
    parser.add_argument("--noise", type=int, default=8, help="cases for each correct kernel (default: 8)")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    every = list(modes(options.only))
    huge = [(name, mode) for name, mode in every if DEFECTS[name].seen_by == HUGE]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        asked = [pool.submit(trials, *one, options.first, options.cases) for one in every if one not in huge]
        spoiled = [pool.submit(noisy, name, options.first, options.noise) for name in CORRECT]

        def tried() -> Iterator[Trial]:
            for future in asked:
                yield from future.result()
            wait(spoiled)  # a huge one takes 20 GB, so that nothing runs beside it
            for one in huge:
                yield from trials(*one, options.first, options.cases)

        _tell_of_defects(tried())
        _tell_of_noise(named for future in spoiled for named in future.result())


def _tell_of_defects(trials: Iterable[Trial]) -> None:
    outcomes: Counter[str] = Counter()
    seconds = []
    for trial in trials:
        outcomes[trial.outcome] += 1
        seconds.append(trial.seconds)
        if trial.outcome not in ("alone", "first"):
            print(f"{trial.outcome}: {trial.defect}: {trial.named}   {trial.case.id}", flush=True)
    total = sum(outcomes.values())
    right = sum(outcomes[name] for name in RIGHT)
    for name, number in outcomes.most_common():
        print(f"{number:5d}  {name}")
    if total:
        print(f"right cause in the best explanation: {right} of {total} ({right / total:.1%})")
        print(f"CPU seconds: median {sorted(seconds)[total // 2]:.2f}, most {max(seconds):.2f}", flush=True)


def _tell_of_noise(spoiled: Iterable[Named]) -> None:
    total = attributed = 0
    for name, case, names in spoiled:
        total += 1
        attributed += bool(names)
        if names:
            print(f"noise named: {name}: {', '.join(names)}   {case.id}", flush=True)
    print(f"correct kernels, noisy: {attributed} of {total} attributed to something")


if __name__ == "__main__":
    main()
