"""`python -m conformance triage`: from a record to a page: which few defects its failures are, and whose."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from conformance.asked import positive

if TYPE_CHECKING:
    from conformance.aiter_source import AiterSource
    from conformance.expectations.findings import Finding
    from conformance.matrix import Column
    from conformance.record import Record
    from conformance.system import System
    from conformance.triage.clusters import Cluster
    from conformance.triage.examined import Examined
    from conformance.triage.page import Page, Triaged

NOTHING_FAILED, TRIAGED, BAD_USAGE, INCOMPLETE = range(4)

SECONDS = 600.0
"""For running what stands for the clusters, all together."""

NAMES = ("--backend", "--target", "--aiter")
"""The options that choose a system."""

INSTEAD = "--aiter and --target name others, --no-run reads the record alone"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subparser, with its options."""
    triage = commands.add_parser("triage", help="which few defects the failures of a record are, and whose")
    triage.add_argument("record", type=Path, metavar="RECORD")
    triage.add_argument("--aiter", metavar="SOURCE", help="where that AITER is now (default: where the record says)")
    triage.add_argument("--target", help="run there what stands for a cluster (default: the record's target)")
    triage.add_argument("--no-run", action="store_true", help="run nothing: say what the record alone tells")
    triage.add_argument("--seconds", type=positive(float), metavar="S",
                        help=f"for running what stands for the clusters (default: {SECONDS:g})")  # fmt: skip
    triage.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    triage.set_defaults(command=main)


def main(options: argparse.Namespace, _: list[str]) -> int:
    """Exit code 0 if nothing failed, 1 with failures, 2 for a system that cannot be chosen, 3 for a record that is
    incomplete or ran nothing, an interrupt, or where nothing runs. Raises BadRecord.
    """
    from conformance.interruption import terminated_as_interrupted
    from conformance.matrix import of_records
    from conformance.record import read
    from conformance.system import NotReady, choose
    from conformance.triage.clusters import clusters
    from conformance.triage.page import FORMATS

    (column,) = of_records([options.record])
    asked = _Asked.of(read(options.record), options)
    found = clusters(column)
    work = _Work(column, found, asked, options.seconds or SECONDS)
    stopped = ""
    if found and not options.no_run:
        try:
            system = choose(*map(asked.option, NAMES))
        except NotReady as why:
            print(f"conformance: {why} ({INSTEAD})", file=sys.stderr)
            return BAD_USAGE
        with terminated_as_interrupted():
            stopped = work.run(system)
    page = work.page(stopped)
    for line in FORMATS[options.format](page):
        print(line)
    if stopped:
        print(f"conformance: {stopped}", file=sys.stderr)
    if stopped or not page.complete or not page.anything_ran:
        return INCOMPLETE
    return TRIAGED if found else NOTHING_FAILED


@dataclass(frozen=True)
class _Asked:
    """The options that choose the system: the record's own, but for what the user names."""

    words: dict[str, str]

    @classmethod
    def of(cls, record: Record, options: argparse.Namespace) -> _Asked:
        words = {"--backend": record.run.get("backend", "")} | record.options
        words |= {f"--{name}": value for name in ("aiter", "target") if (value := getattr(options, name)) is not None}
        return cls({name: words[name] for name in NAMES if words.get(name)})

    def option(self, name: str) -> str | None:
        return self.words.get(name)


class _Work:
    """Clusters, and what is found out about each."""

    def __init__(self, column: Column, found: Sequence[Cluster], asked: _Asked, seconds: float) -> None:
        self.column, self.found, self.asked, self.seconds = column, found, asked, seconds
        self.examined: dict[int, Examined] = {}

    def run(self, system: System) -> str:
        """Examines one cluster after another, those that nothing explains first. Why it stopped, or ""."""
        from conformance.triage.examined import Examined, Examiner, NothingRuns
        from conformance.triage.trials import trials_of

        ends = monotonic() + self.seconds
        order = sorted(range(len(self.found)), key=lambda at: self.found[at].note is not None)
        with trials_of(system) as trials:
            examiner = Examiner(system, trials, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
            try:
                for done, at in enumerate(order):
                    left = max(0.0, ends - monotonic())
                    print(f"cluster {at + 1} of {len(self.found)}, {left:.0f}s left", file=sys.stderr, flush=True)
                    self.examined[at] = Examined()
                    examiner.examine(self.found[at], self.examined[at], left / (len(order) - done))
            except NothingRuns as why:
                self.examined.clear()
                return f"nothing runs here: {why} ({INSTEAD})"
            except KeyboardInterrupt:
                return "interrupted: shown is what was done"
        return ""

    def page(self, stopped: str) -> Page:
        """What there is to show, however far the work came."""
        from conformance.record import fails
        from conformance.status import Status
        from conformance.triage.page import Page

        source = self._source()
        results = self.column.results.values()
        return Page(
            self.column.system.described,
            counts=Counter(Status(result["status"]) for result in results),
            declared=sum("expected" in result and not fails(result) for result in results),
            complete=self.column.complete,
            triaged=[self._triaged(at, source) for at in range(len(self.found))],
            remarks=[*self._remarks(source), *([stopped] if stopped else [])],
        )

    def _source(self) -> AiterSource | None:
        from conformance.aiter_source import AiterNotFound, locate

        with suppress(AiterNotFound):
            return locate(spec) if (spec := self.asked.option("--aiter")) else None
        return None

    def _remarks(self, source: AiterSource | None) -> list[str]:
        own, spec = self.column.system, self.asked.option("--aiter")
        if spec and source is None:
            return [f"The record's AITER is not here, so that its source was not read: {spec}"]
        if source is not None and (source.version != own.version or own.commit not in ("", source.commit)):
            return [f"Read and run is AITER {source.described}, the record's is {own.described}"]
        return []

    def _triaged(self, at: int, source: AiterSource | None) -> Triaged:
        from conformance.backends import UnknownBackend, load
        from conformance.check import Check
        from conformance.triage.commands import commands
        from conformance.triage.owners import owners, raised_in
        from conformance.triage.page import Triaged
        from conformance.triage.signature import SPOKEN

        cluster, examined = self.found[at], self.examined.get(at)
        first = cluster.candidates[0]
        root = source.root if source else None
        raised = raised_in(first.result.get("reason", ""), root) if first.result["status"] in SPOKEN else None
        owned = [raised] if raised else []
        with suppress(UnknownBackend):
            owned = owned or owners(load(self.asked.option("--backend") or "torch"), cluster.kernels, root)
        check = Check.parse(examined.check) if examined and examined.check else first.check
        smallest = examined.smallest if examined else ""
        explained = examined is not None and bool(examined.lines)
        goes_on = commands(check, smallest, explained, self.asked.words, source, _finding(cluster))
        return Triaged(cluster, owned, list(goes_on), examined)


def _finding(cluster: Cluster) -> Finding | None:
    """The finding that explains what stands for the cluster."""
    from conformance.expectations.findings import committed

    note, status = cluster.note, cluster.candidates[0].result["status"]
    same = [finding for finding in committed()
            if note and (finding.failure.reason, finding.failure.issue) == (note.reason, note.issue)]  # fmt: skip
    return next((finding for finding in same if finding.failure.status == status), None)
