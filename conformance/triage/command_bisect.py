"""`python -m conformance bisect`: from a check, a repository and two refs to a commit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from conformance.aiter_source import AiterNotFound, locate
from conformance.check import Check, to_build
from conformance.summary import duration
from conformance.system import choose

if TYPE_CHECKING:
    from conformance.triage.bisect import Bisection, Found

FOUND, BAD_USAGE, INCOMPLETE = 0, 2, 3


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subparser, with its options."""
    bisect = commands.add_parser("bisect", help="the first commit that made a check fail, or with --fixed pass")
    bisect.add_argument("case", metavar="CASE", help="the id of a case, or RELATION/ID")
    bisect.add_argument("--aiter", required=True, metavar="REPO", help="a git repository, bare or not")
    bisect.add_argument("--good", required=True, metavar="REF", help="where the check passes")
    bisect.add_argument("--bad", required=True, metavar="REF", help="where it fails, in the way that is looked for")
    bisect.add_argument("--fixed", action="store_true", help="BAD is the older: find the first good commit")
    bisect.add_argument("--backend", default="aiter", help="aiter, or another that uses AITER (default: aiter)")
    bisect.add_argument("--target", help="gpu, interpreter[:gfx942|gfx950], compile:gfx942 or compile:gfx950")
    bisect.set_defaults(command=main)


def main(options: argparse.Namespace, _: list[str]) -> int:
    """Exit code 0 with the one commit, 3 with several among which it is, or an interrupt; 2 where there is none."""
    from conformance.triage.bisect import Bisection, CannotBisect, Stopped
    from conformance.triage.journal import Journal, Plan

    check = Check.parse(options.case)
    source = locate(f"{options.aiter}@{options.bad}")
    if source is None or source.repository is None:
        raise AiterNotFound(f"{options.aiter} is no git repository")
    repository = source.repository
    system = choose(options.backend, options.target, f"{options.aiter}@{options.bad}")
    if system.only_builds:
        to_build([check], chosen=True)
    good, bad = repository.commit(options.good), repository.commit(options.bad)
    plan = Plan(check.id, str(repository.path), system.backend.name, system.target_spec)
    bisection = Bisection(Journal.of(plan), repository, good, bad, options.fixed, lambda line: print(line, flush=True))
    started = monotonic()
    try:
        found = bisection.run()
    except CannotBisect as refused:
        print(f"conformance: {refused}", file=sys.stderr)
        return BAD_USAGE
    except Stopped as stopped:
        print(f"conformance: {stopped}", file=sys.stderr)
        return INCOMPLETE
    except KeyboardInterrupt:
        print("conformance: interrupted; the same command goes on", file=sys.stderr)
        return INCOMPLETE
    for line in _lines(found, bisection):
        print(line)
    print(f"{bisection.tried} commits tried in {duration(monotonic() - started)}")
    return FOUND if len(found.commits) == 1 else INCOMPLETE


def _lines(found: Found, bisection: Bisection) -> Iterator[str]:
    """How a bisection ended, for a person."""
    from conformance.triage.bisect import verdict

    which = "good" if bisection.fixed else "bad"
    newest = found.commits[0]
    if len(found.commits) > 1:
        known = bisection.journal.known()
        yield f"one of these {len(found.commits)} commits is the first {which} one; only the newest could be judged:"
        for commit in found.commits:
            trial = known.get(commit.id)
            yield f"  {commit}" + (f"\n      {verdict(trial.result)}" if trial else "")
        yield f"versions with the newest: {', '.join(found.versions) or 'none yet'}"
        return
    yield f"first {which} commit"
    yield f"  commit    {newest.id}"
    yield f"  title     {newest.title}"
    yield f"  date      {newest.date}"
    yield f"  versions  {', '.join(found.versions) or 'none yet'}"
    merged = f" (a merge of {found.merges + 1})" if found.merges > 0 else ""
    yield f"  files     {len(found.files)} of the kernels', {found.other_files} others{merged}"
    for file in found.files:
        yield f"            {file}"
    yield f"  failure   {bisection.failure()}"
