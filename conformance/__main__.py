"""The command line: a thin front of pytest, which is the only runner."""

import argparse
import os
import secrets
import sys
import traceback
from functools import partial
from math import inf
from pathlib import Path

import pytest

from conformance import __version__, backends, compare_shown, environment, expectations, manifest
from conformance import compare_sets as comparing
from conformance import matrix as tabulating
from conformance import merge as merging
from conformance.asked import add_system, positive
from conformance.case import BadCase
from conformance.check import Check, of_tier
from conformance.detect import options as options_of_detect
from conformance.inputs import make
from conformance.qualify import options as options_of_qualify
from conformance.record import BadRecord, fails
from conformance.relations import Relation
from conformance.report import command as report
from conformance.summary import header_lines
from conformance.system import NotReady, choose
from conformance.triage import command as explaining
from conformance.triage import command_bisect, command_shrink, command_triage
from conformance.triage.repro import command as command_repro

CONFORMANT, NOT_CONFORMANT, BAD_USAGE, NOTHING_RAN = range(4)

PYTEST_EXIT = {
    pytest.ExitCode.OK: CONFORMANT,
    pytest.ExitCode.TESTS_FAILED: NOT_CONFORMANT,
    pytest.ExitCode.USAGE_ERROR: BAD_USAGE,
}
"""Every other exit code of pytest's means that nothing ran or that the run is incomplete."""

TRACEBACK = "CONFORMANCE_TRACEBACK"
"""The environment variable that shows where an exception comes from that nothing here expects."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 conformant, 1 not, 2 bad usage, 3 nothing ran or incomplete."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command is not _run:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code = options.command(options, rest)
        sys.stdout.flush()
        return code
    except (BadCase, BadRecord, manifest.BadTier, expectations.BadExpectations, *NotReady) as e:
        return _refused(str(e))
    except MemoryError as e:
        return _refused(f"this machine has not the memory: {e}")
    except KeyboardInterrupt:
        return _refused("interrupted", NOTHING_RAN)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the end
        return NOTHING_RAN
    except Exception as e:  # uncaught, it would end Python with 1, which says that kernels are wrong
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        what = f"{type(e).__name__}: {' '.join(str(e).split())}"
        return _refused(f"{what} (a defect of the suite; {TRACEBACK}=1 shows where)", NOTHING_RAN)


def _refused(sentence: str, code: int = BAD_USAGE) -> int:
    print(f"conformance: {sentence}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance", description="Numerical conformance of AITER-backed paged attention."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="run a tier, or single cases; further options go to pytest (-n 8, -k noncausal, -x, --junitxml F)"
    )
    run.set_defaults(command=_run)
    doctor = commands.add_parser("doctor", help="say what is here and what would run")
    doctor.set_defaults(command=_doctor)
    fuzz = commands.add_parser("fuzz", help="draw cases without end, and shrink the first that fails")
    fuzz.set_defaults(command=_fuzz)
    for command in (run, doctor, fuzz):
        add_system(command)
    for command in (run, doctor):
        command.add_argument("--expectations", action="append", metavar="FILE",
                             help="known gaps, beside those that come with the suite; may be repeated")  # fmt: skip
        command.add_argument("--no-expectations", action="store_true", default=None,
                             help="leave out the list of gaps that comes with the suite")  # fmt: skip
    tiers = ", ".join((*manifest.TIERS, *manifest.GROUPS, manifest.FUZZ))
    run.add_argument("--tier", help=f"which cases: {tiers} (default: smoke); options of fuzz go with {manifest.FUZZ}")
    run.add_argument("--case", action="append", metavar="ID", help="run this case, or RELATION/ID; may be repeated")
    run.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of these, from 1, for several hosts")
    run.add_argument("--record", metavar="FILE", help="write the results there, as JSON lines")

    limit = fuzz.add_mutually_exclusive_group()
    limit.add_argument("--cases", type=positive(int), metavar="N", help="stop after so many cases (default: Ctrl-C)")
    limit.add_argument("--seconds", type=positive(float), metavar="S", help="stop after so long")
    fuzz.add_argument("--seed", type=int, metavar="N", help="draw the same cases again")
    fuzz.add_argument("--avoid", action="append", default=[], metavar="KIND",
                      help="draw no case of this kind: short, padded, poison.tails, ...; may be repeated")  # fmt: skip
    fuzz.add_argument("-v", action="store_true", dest="show", help="print each case before it runs, in case it kills")

    options_of_detect.add(commands)
    options_of_qualify.add(commands)
    explaining.add(commands)
    _add_readers(commands)

    listing = commands.add_parser("list", help="what a tier checks: its cases, then relations between answers")
    listing.add_argument("--tier", default="smoke")
    listing.set_defaults(command=_list)
    show = commands.add_parser("show", help="one case in full, or one relation (RELATION/ID)")
    show.add_argument("case", metavar="CASE")
    show.set_defaults(command=_show)
    bench = commands.add_parser("bench", help="the oracle against dense float64 attention: time and memory")
    bench.add_argument("--device", help="cpu or cuda (default: the GPU where there is one)")
    bench.set_defaults(command=_bench)
    _add_triage(commands)
    return parser


def _add_readers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands that read records."""
    merge = commands.add_parser("merge", help="one record of the shards, or of other parts, of one run")
    merge.add_argument("records", nargs="+", type=Path, metavar="RECORD")
    merge.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="write it there")
    merge.set_defaults(command=_merge)
    compare = commands.add_parser("compare", help="what changed from one record to another, check by check")
    for which in ("old", "new"):
        compare.add_argument(which, metavar=which.upper(), help="a record, or RECORD,RECORD,..., or a folder of them")
    compare.add_argument("--strict", action="store_true", help="whatever changed, the exit code is 1")
    compare.add_argument("--format", choices=compare_shown.FORMATS, default="text")
    compare.set_defaults(command=_compare)

    matrix = commands.add_parser("matrix", help="path by feature by version, and what explains each failure")
    matrix.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="those of one system are joined")
    matrix.add_argument("--format", choices=tabulating.FORMATS, default="text")
    matrix.set_defaults(command=_matrix)

    report.add(commands)


def _add_triage(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands that find out about a check that fails."""
    for command in (command_triage, command_shrink, command_repro, command_bisect):
        command.add(commands)


def _run(options: argparse.Namespace, for_pytest: list[str]) -> int:
    if options.tier == manifest.FUZZ:
        return _run_as_fuzz(options, for_pytest)
    if options.case and options.tier is not None:
        return _refused("--tier and --case both choose cases: name one")
    # In one word each: pytest takes a path that stands alone for a place to look for its own configuration.
    names = ("backend", "target", "aiter", "tier", "shard", "record")
    chosen = [f"--{name}={value}" for name in names if (value := getattr(options, name)) is not None]
    chosen += [f"--case={case}" for case in options.case or ()]
    chosen += [f"--expectations={file}" for file in options.expectations or ()]
    chosen += ["--no-expectations"] if options.no_expectations else []
    words = ["-p", "conformance.plugin", "--pyargs", "conformance.suite", "-v", "-rN", *chosen, *for_pytest]
    code = pytest.main(words, plugins=[reported := _Reported()])
    if code == pytest.ExitCode.OK and not reported.anything and not {"--version", "-V"} & set(for_pytest):
        return NOTHING_RAN  # --collect-only, --markers and others of pytest's that run no test
    return PYTEST_EXIT.get(pytest.ExitCode(code), NOTHING_RAN)


class _Reported:
    """Sees whether a session of pytest's reports on any test."""

    anything = False

    def pytest_runtest_logreport(self) -> None:
        self.anything = True


def _run_as_fuzz(options: argparse.Namespace, rest: list[str]) -> int:
    """`run --tier fuzz` is `fuzz`."""
    for name in ("case", "record", "expectations", "no-expectations"):
        if getattr(options, name.replace("-", "_")) is not None:
            return _refused(f"tier {manifest.FUZZ} draws its cases and keeps none: leave out --{name}")
    chosen = [f"--{name}={value}" for name in ("backend", "target", "aiter")
              if (value := getattr(options, name)) is not None]  # fmt: skip
    return main([manifest.FUZZ, *chosen, *rest])


def _fuzz(options: argparse.Namespace, _: list[str]) -> int:
    try:
        from conformance.fuzz import AVOIDABLE, WITHOUT_END, Fuzz
    except ModuleNotFoundError as e:
        if e.name != "hypothesis":
            raise
        return _refused("fuzz needs Hypothesis: python -m pip install hypothesis")
    if unknown := [level for level in options.avoid if level not in AVOIDABLE]:
        return _refused(f"no kind of case is called {unknown[0]!r}: there are {', '.join(sorted(AVOIDABLE))}")
    system = choose(options.backend, options.target, options.aiter)
    try:
        target = system.start()
    except NotReady as e:
        return _refused(str(e), NOTHING_RAN)
    for line in header_lines(system, f"tier {manifest.FUZZ}"):
        print(line)
    say = partial(print, flush=True)
    fuzz = Fuzz(system, target, say, frozenset(options.avoid), seconds=options.seconds or inf)
    if options.show:
        fuzz.before_each = lambda case: say(case.id)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    if not fuzz.go(options.cases or WITHOUT_END, seed):
        print("NOT CONFORMANT: a case fails.")
        return NOT_CONFORMANT
    if fuzz.interrupted and (options.cases or options.seconds):
        print("INTERRUPTED.")
        return NOTHING_RAN
    if not fuzz.ran:
        print("NOTHING RAN.")
        return NOTHING_RAN
    print("CONFORMANT.")
    return CONFORMANT


def _doctor(options: argparse.Namespace, _: list[str]) -> int:
    """What is here and what would run; the kernels are really imported."""
    system = choose(options.backend, options.target, options.aiter)
    entries = expectations.asked_for(
        system.backend.name, options.expectations or (), with_committed=not options.no_expectations
    )
    expectations.refuse_idle(entries, checks := expectations.of_every_tier())
    expected = expectations.applying(entries, system, checks)
    here = environment.describe() | {
        "GPUs": environment.of_gpus(),
        "backends": ", ".join(backends.names()),
    }
    would = {
        "would run": f"backend {system.backend.name}, target {system.target_spec}",
        "AITER": f"{system.source.described}, {system.source.root}" if system.source else "none",
        "expectations": "; ".join(expected.notes) or "none apply",
    }
    if system.source and system.backend.describe:
        would |= system.backend.describe(system.source)
    try:
        target = system.start()
    except NotReady as e:
        _print_pairs(here | would | {"does not run": str(e)})
        return NOTHING_RAN
    _print_pairs(here | environment.describe(target) | would)
    return CONFORMANT


def _merge(options: argparse.Namespace, _: list[str]) -> int:
    together = merging.merged(options.records)
    merging.write(together, options.output)
    said = merging.lines(together)
    print("\n".join([*said[:-1], f"record: {options.output}", said[-1]]))
    if not together.complete or not merging.anything_ran(together):
        return NOTHING_RAN
    return NOT_CONFORMANT if any(map(fails, together.cases)) else CONFORMANT


def _compare(options: argparse.Namespace, _: list[str]) -> int:
    """Exit code 1 for a regression, with --strict for any change; 3 where one might be in what a record lacks."""
    old, new = comparing.of(options.old), comparing.of(options.new)
    found = comparing.compare_sets(old, new)
    one_each = len(old) == len(new) == 1
    shown = (
        compare_shown.FORMATS[options.format](found.pairs[0])
        if one_each
        else compare_shown.of_sets(found, options.format)
    )
    for line in shown:
        print(line)
    if found.regressed or (options.strict and found.changed):
        return NOT_CONFORMANT
    return CONFORMANT if found.complete and found.common else NOTHING_RAN


def _matrix(options: argparse.Namespace, _: list[str]) -> int:
    """Exit code 1 for a failure that nothing explains; 3 where one might be in what a record lacks."""
    found = tabulating.matrix(tabulating.of_records(options.records))
    for line in tabulating.FORMATS[options.format](found):
        print(line)
    if found.unexplained:
        return NOT_CONFORMANT
    return CONFORMANT if found.complete and found.anything_ran else NOTHING_RAN


def _list(options: argparse.Namespace, _: list[str]) -> int:
    for check in of_tier(options.tier):
        print(check.id)
    return CONFORMANT


def _show(options: argparse.Namespace, _: list[str]) -> int:
    check = Check.parse(options.case)
    case, inputs = check.case, make(check.case)
    pairs = {"each sequence's step": ", ".join(case.kinds)}
    pairs |= {name: str(getattr(case, name)) for name in case.__dataclass_fields__}
    for name in ("q", "key", "value", "k_cache", "v_cache", "block_table"):
        if (tensor := getattr(inputs, name)) is None:
            continue
        pairs[f"{name} (made)"] = f"{tensor.dtype} {list(tensor.shape)}, strides {list(tensor.stride())}"
    pairs |= {"scale (made)": f"{inputs.scale:g}", "digest of all inputs": inputs.digest()[:16]}
    if relation := check.relation:
        pairs |= {"compared with": relation.says, "must be": relation.demand}
    if isinstance(relation, Relation):
        pairs["inputs of that"] = relation.calls(case)[1].inputs.digest()[:16]
    _print_pairs(pairs)
    return CONFORMANT


def _bench(options: argparse.Namespace, _: list[str]) -> int:
    from conformance.bench import table

    for line in table(options.device):
        print(line, flush=True)
    return CONFORMANT


def _print_pairs(pairs: dict[str, str]) -> None:
    width = max(map(len, pairs))
    for name, value in pairs.items():
        print(f"{name:{width}}  {value}")


if __name__ == "__main__":
    sys.exit(main())
