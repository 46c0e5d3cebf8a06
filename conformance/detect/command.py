"""`python -m conformance detect`: from a source of AITER and a tier to a kill rate."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from conformance import manifest, record
from conformance.case import Case
from conformance.check import Check
from conformance.detect import equivalents, kernels, operators
from conformance.detect.equivalents import BadEquivalent
from conformance.detect.kernels import KERNELS, KernelModule, NoKernels
from conformance.detect.mutants import Mutant, mutants
from conformance.detect.record import BadRecord, Record, RecordEnded
from conformance.detect.report import Analysis, lines
from conformance.detect.run import NotTheSame, Run
from conformance.detect.trials import CannotJudge, Laboratory
from conformance.interruption import terminated_as_interrupted
from conformance.shard import BadShard, Shard
from conformance.system import NotReady, System, choose
from conformance.targets import Target, TargetError

ALL_KILLED, SOME_SURVIVED, BAD_USAGE, INCOMPLETE = range(4)

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Refused = (BadEquivalent, BadRecord, NoKernels)
"""What is refused before anything runs, each in one sentence."""

Stopped = (CannotJudge, NotTheSame, RecordEnded)
"""What ends an analysis before its end, each in one sentence."""


class BadOption(Exception):
    """An option that makes no sense, in one sentence."""


@dataclass(frozen=True)
class Selection:
    """Which mutants a run is about."""

    only: re.Pattern[str]
    shard: Shard

    @classmethod
    def of(cls, options: argparse.Namespace) -> Selection:
        try:
            only = re.compile(options.only or "")
        except re.error as error:
            raise BadOption(f"--only {options.only}: {error}") from error
        return cls(only, Shard.parse(options.shard) if options.shard is not None else Shard())

    def of_all(self, all_mutants: list[Mutant]) -> list[Mutant]:
        # Neighbours go to different shards: mutants of one line take about the same time.
        share = all_mutants[self.shard.number - 1 :: self.shard.of]
        return [mutant for mutant in share if self.only.search(mutant.id)]


def main(options: argparse.Namespace) -> int:
    """Run the analysis and return its exit code."""
    _leave_one_thread_to_numpy()
    try:
        return _main(options)
    except (BadOption, BadShard, *Refused) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return BAD_USAGE
    except Stopped as error:
        print(f"conformance: {error}", file=sys.stderr)
        return INCOMPLETE


def _main(options: argparse.Namespace) -> int:
    which, selection, cases = _kernels(options), Selection.of(options), _cases(options)
    _check(options)
    entries = equivalents.read(options.equivalents or equivalents.COMMITTED)
    system = choose("aiter", options.target, options.aiter)
    try:
        target = system.start()
    except NotReady as error:
        print(f"conformance: {error}", file=sys.stderr)
        return INCOMPLETE
    modules = kernels.find(which)
    texts = {module.name: module.text for module in modules}
    every = [mutant for module in modules for mutant in mutants(module.name, module.text)]
    chosen = selection.of_all(every)
    if not chosen:
        print("conformance: no mutant is selected", file=sys.stderr)
        return INCOMPLETE
    if options.list:
        for mutant in chosen:
            print("\n    ".join([f"{mutant.id}  in {mutant.function}", *mutant.diff(texts[mutant.module])]))
        return ALL_KILLED
    version = system.source.version if system.source else ""
    equivalent = equivalents.matched(entries, version, every, texts)
    kept = Record(options.record, _described(options, system, target, modules, cases))
    print(f"{system.name} on {target.name}: {len(chosen)} mutants of {', '.join(sorted(texts))}", flush=True)
    analysis = Analysis(chosen, texts, kept.outcomes, equivalent, kept.cases)
    with terminated_as_interrupted():
        at_once = options.jobs or os.cpu_count() or 1
        laboratory = Laboratory(system.backend, target, modules, {}, options.least_time_limit, at_once)
        bounds = (options.max_seconds_per_case, options.max_mib_per_case, options.stop_after)
        run = Run(laboratory, kept, analysis, *bounds)
        try:
            run.all(cases)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        finally:
            kept.close()
    if not run.knows_what_is_reached:
        print("conformance: stopped before the first mutant", file=sys.stderr)
        return INCOMPLETE
    print("\n".join(lines(analysis)), flush=True)
    return _exit_code(analysis)


def _leave_one_thread_to_numpy() -> None:
    """Starts this command again where NumPy's matrix products would use every core: each child would, at once.

    Their library reads its environment when it is loaded, which it has been by now.
    """
    is_command = Path(sys.argv[0]).parts[-2:] == ("conformance", "__main__.py")
    if is_command and any(name not in os.environ for name in THREADS):
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, dict.fromkeys(THREADS, "1") | os.environ)


def _exit_code(analysis: Analysis) -> int:
    if not analysis.reached or analysis.of("not run"):
        return INCOMPLETE
    return SOME_SURVIVED if analysis.of("survived") or analysis.wrongly_equivalent else ALL_KILLED


def _kernels(options: argparse.Namespace) -> tuple[str, ...]:
    which = tuple(dict.fromkeys(options.kernels.split(",")))
    if unknown := set(which) - set(KERNELS):
        raise BadOption(
            f"--kernels {options.kernels}: there is {' and '.join(KERNELS)}, not {', '.join(sorted(unknown))}"
        )
    return which


def _cases(options: argparse.Namespace) -> list[Case]:
    if options.case and options.tier is not None:
        raise BadOption("--tier and --case both choose cases: name one")
    if options.case:
        return list(dict.fromkeys(map(Case.parse, options.case)))
    return manifest.cases("smoke" if options.tier is None else options.tier)


def _check(options: argparse.Namespace) -> None:
    if options.target.split(":")[0] != "interpreter":
        raise TargetError(
            f"mutants run in forked children of an interpreter: --target interpreter, not {options.target}"
        )
    if not hasattr(os, "fork"):
        raise TargetError("mutants run in forked children, which this system does not have")
    for name in ("jobs", "max_seconds_per_case", "max_mib_per_case", "least_time_limit", "stop_after"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise BadOption(f"--{name.replace('_', '-')} {value:g}: must be positive")


def _described(
    options: argparse.Namespace, system: System, target: Target, modules: list[KernelModule], cases: list[Case]
) -> dict[str, str]:
    """What two runs must have in common for one to continue the other's record."""
    texts = "".join(f"{module.name}\n{module.text}" for module in modules)
    keys = "\n".join(record.digest(Check(case)) for case in cases)
    return {
        "AITER": system.name,
        "kernels": _digest(texts),
        "tier": "chosen cases" if options.case else options.tier or "smoke",
        "cases": _digest(keys),
        "operators": str(operators.VERSION),
        "target": target.name,
        "seconds per case": _bound(options.max_seconds_per_case),
        "MiB per case": _bound(options.max_mib_per_case),
    }


def _bound(most: float | None) -> str:
    return "any" if most is None else f"{most:g}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
