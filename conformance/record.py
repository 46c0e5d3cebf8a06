"""Records: what a run found, as JSON lines that are still readable when the run is cut short.

A header (what ran, on what, how many checks were planned), a line a check as soon as it is known, and a footer with the
counts. A line names a case and, where a relation was checked on it, the relation. A record without its footer is
incomplete, and `read` says so. A line keeps the true status where a failure was expected, and says what was.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from conformance import graphs, inputs, relations
from conformance.check import Check
from conformance.graphs import GraphRelation
from conformance.status import Status
from reference import attention as oracle

FORMAT = 1


class BadRecord(Exception):
    """A file that is no record, or a record that cannot be written, in one sentence."""


def digest(check: Check) -> str:
    """Key of a result: the case, how its inputs are made, the oracle it is judged by, and the relation, if any."""
    key = f"{check.id} inputs {inputs.VERSION} oracle {oracle.VERSION}"
    if isinstance(check.relation, GraphRelation):
        key += f" graphs {graphs.VERSION}"
    elif check.relation:
        key += f" relations {relations.VERSION}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def check_id(result: dict[str, Any]) -> str:
    """The id of the check that a line of a record is the result of."""
    return f"{result['relation']}/{result['case']}" if "relation" in result else result["case"]


def fails(result: dict[str, Any]) -> bool:
    """Does a line make a run not conformant? A failure does that was not expected, and all but the one that was."""
    status = Status(result["status"])
    return status != result["expected"]["status"] if "expected" in result else not status.conformant


class Writer:
    """Writes a record line by line; a line is on disk as soon as its check is done.

    The file appears with its first line: a run that never started leaves none. Raises BadRecord if there is one
    already, so that nothing recorded is lost, or if none can be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        try:
            if path.is_dir():
                raise BadRecord(f"cannot record to {path}: it is a folder")
            if path.exists():
                raise BadRecord(f"{path} exists and is kept: delete it, or record somewhere else")
        except OSError as e:  # a name that no file can have
            raise BadRecord(f"cannot record to {path}: {e.strerror}") from e
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise BadRecord(f"cannot record to {path}: there is no writable folder {path.parent}")

    def header(self, planned: int, run: dict[str, Any], environment: dict[str, str]) -> None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._write("header", format=FORMAT, started=started, planned=planned, run=run, environment=environment)

    def case(self, **figures: Any) -> None:
        self._write("case", **figures)

    def footer(self, counts: Counter[str], seconds: float) -> None:
        self._write("footer", counts=dict(sorted(counts.items())), seconds=round(seconds, 1))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, kind: str, **content: Any) -> None:
        if self._file is None:
            self._file = self.path.open("x", encoding="utf-8")
        self._file.write(json.dumps({"kind": kind, **content}, allow_nan=False) + "\n")
        self._file.flush()


@dataclass(frozen=True)
class Record:
    """A record read back. `complete` says that it has its footer and a result for every planned check."""

    header: dict[str, Any]
    cases: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False

    @property
    def counts(self) -> Counter[Status]:
        return Counter(Status(case["status"]) for case in self.cases)


def read(path: Path) -> Record:
    """Read a record; one that was cut short, even within a line, keeps what it has. Raises BadRecord."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadRecord(f"cannot read {path}: {e}") from e
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as e:
            if number < len(lines):
                raise BadRecord(f"{path}, line {number}: not JSON ({e.msg})") from e
    header = entries[0] if entries else None
    if not isinstance(header, dict) or header.get("kind") != "header":
        raise BadRecord(f"{path} is not a record: its first line is no header")
    if header.get("format") != FORMAT:
        raise BadRecord(f"{path} has format {header.get('format')!r}; this suite reads {FORMAT}")
    if not isinstance(header.get("planned"), int):
        raise BadRecord(f"{path} is not a record: its header does not say how many checks were planned")
    cases = []
    for number, entry in enumerate(entries[1:], 2):
        kind = entry.get("kind") if isinstance(entry, dict) else None
        if kind == "case" and isinstance(entry.get("case"), str) and entry.get("status") in set(Status):
            cases.append(entry)
        elif kind != "footer":
            raise BadRecord(f"{path}, line {number}: neither a case with a status nor a footer")
    closed = len(entries) > 1 and entries[-1]["kind"] == "footer"
    return Record(header, cases, complete=closed and len({check_id(c) for c in cases}) == header["planned"])
