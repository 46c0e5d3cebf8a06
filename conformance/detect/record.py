"""The record of a mutation analysis: JSON lines, appended as each case and each mutant is done, and continued."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conformance.detect.trials import Baseline, Outcome

FORMAT = 1


class BadRecord(Exception):
    """A record that cannot be begun, or that is of another analysis, in one sentence."""


class RecordEnded(Exception):
    """A record that cannot be written any further, in one sentence; its complete lines can be continued."""


class Record:
    """What is known of one analysis, `described` by its header; kept in the file at `path`, if that is given.

    A file that is there is continued. Raises BadRecord if it was made with another AITER, tier, target or set of
    operators: its results would not be those of this analysis. Adding to it raises RecordEnded.
    """

    def __init__(self, path: Path | None, described: dict[str, str]) -> None:
        self.path = path
        self.cases: dict[str, Baseline] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._header = {"kind": "detect", "format": FORMAT, **described}
        self._file = None
        if path is None:
            return
        try:
            complete = self._read(path) if path.exists() and path.stat().st_size else 0
            self._file = path.open("ab")
            self._file.truncate(complete)
        except OSError as error:
            raise BadRecord(f"cannot record to {path}: {error.strerror}") from error
        if not complete:
            self._write(self._header)

    def add_case(self, baseline: Baseline) -> None:
        self.cases[baseline.case] = baseline
        lines = {name: sorted(found) for name, found in baseline.lines.items()}
        self._write({"kind": "case", **asdict(baseline), "lines": lines})

    def add_outcome(self, outcome: Outcome) -> None:
        self.outcomes[outcome.mutant] = outcome
        self._write({"kind": "mutant", **asdict(outcome)})

    def _read(self, path: Path) -> int:
        """Takes up what a record holds; gives the length of its complete lines, in bytes."""
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1  # a run that was killed may leave a line unfinished
        try:
            header, *entries = [json.loads(line) for line in content[:complete].splitlines()]
            self._compare(path, header)
            for entry in entries:
                kind = entry.pop("kind")
                if kind == "case":
                    lines = {name: frozenset(found) for name, found in entry["lines"].items()}
                    self.cases[entry["case"]] = Baseline(**{**entry, "lines": lines})
                else:
                    self.outcomes[entry["mutant"]] = Outcome(**entry)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRecord(f"{path} is no record of a mutation analysis") from error
        return complete

    def _compare(self, path: Path, header: dict[str, Any]) -> None:
        if header["kind"] != "detect":
            raise BadRecord(f"{path} is no record of a mutation analysis")
        for name in dict.fromkeys((*header, *self._header)):
            if header.get(name) != self._header.get(name):
                made, now = header.get(name), self._header.get(name)
                raise BadRecord(f"{path} was made with {name} {made}, and this run has {now}: record somewhere else")

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise RecordEnded(f"cannot record to {self.path} any more: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what could not be written has been told
                os.fsync(self._file.fileno())
            with suppress(OSError):
                self._file.close()
