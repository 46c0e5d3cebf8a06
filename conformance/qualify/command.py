"""`python -m conformance qualify`: from versions of AITER to records of them, and a table of versions by features."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from conformance.check import of_tier, shown_on
from conformance.expectations import read as read_expectations
from conformance.interruption import terminated_as_interrupted
from conformance.plan import Plan
from conformance.qualify import table
from conformance.qualify.places import BadPlace, place
from conformance.qualify.run import Qualification
from conformance.qualify.shown import FORMATS
from conformance.qualify.store import Store, not_run
from conformance.qualify.table import Table
from conformance.qualify.versions import TAG, BadVersions, versions

CONFORMANT, NOT_CONFORMANT, BAD_USAGE, INCOMPLETE = range(4)


def main(options: argparse.Namespace) -> int:
    """Run what is left, show the table, and return the exit code.

    0 if every version that could be run conforms, 1 if one does not, 2 for bad usage, 3 if a version was not run to its
    end, or none could be run. A version that does not import is a row with its cause, and decides nothing.
    """
    try:
        return _main(options)
    except (BadPlace, BadVersions) as refused:
        print(f"conformance: {refused}", file=sys.stderr)
        return BAD_USAGE


def _main(options: argparse.Namespace) -> int:
    store = Store(options.output)
    if not options.aiter:
        if not (records := store.records()):
            raise BadPlace(f"{options.output} holds no record: name what to qualify with --aiter")
        return _show(table.of_paths(records), options.format)
    _check(options)
    checks = of_tier(options.tier)
    found, notes = versions(options.aiter, options.every)
    for note in notes:
        print(note, file=sys.stderr)
    places = [place(env, options.backend, target) for env in options.python or [None]
              for target in dict.fromkeys(options.target or [None])]  # fmt: skip

    @cache
    def plan(kind: str) -> Plan:
        return Plan(f"tier {options.tier}", shown_on(kind, checks))

    interrupted = False
    with store.locked() as lock, terminated_as_interrupted():
        jobs = [store.job(version, where, plan(where.kind)) for version in found for where in places]
        for job in jobs:
            store.take_over(job)  # of a run that was killed
        work = Qualification(store, options.jobs, _words(options), options.again, lock)
        try:
            work.run(jobs)
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted: the same command goes on from here", file=sys.stderr, flush=True)
    records = [(job.file, store.held(job) or not_run(job, work.failed.get(job.file, ""))) for job in jobs]

    @cache
    def asked(kind: str) -> list[str]:
        return [check.id for check in plan(kind).every]

    code = _show(table.tables(records, asked), options.format)
    for job in jobs:
        if why := work.failed.get(job.file):
            print(f"{job.described}: {why}", file=sys.stderr)
    return INCOMPLETE if interrupted or work.failed else code


def _check(options: argparse.Namespace) -> None:
    """Raises BadVersions and BadExpectations."""
    if options.every != TAG and not (options.every.isascii() and options.every.isdigit() and int(options.every)):
        raise BadVersions(f"--every {options.every}: write tag, or a number of commits from 1")
    for file in options.expectations:
        read_expectations(Path(file), file)


def _words(options: argparse.Namespace) -> list[str]:
    """What each run is given as it is."""
    words = [f"--tier={options.tier}", *(f"--expectations={file}" for file in options.expectations)]
    words += ["--no-expectations"] if options.no_expectations else []
    return [*words, "-n", options.workers] if options.workers else words


def _show(tables: Sequence[Table], form: str) -> int:
    for line in FORMATS[form](tables):
        print(line)
    every = [version for one in tables for version in one.versions]
    ran = [version for version in every if version.anything_ran]
    if not ran or not all(version.complete for version in every):
        return INCOMPLETE
    return NOT_CONFORMANT if any(version.fails for version in ran) else CONFORMANT
