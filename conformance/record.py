"""Records: what a run found, as JSON lines that are still readable when the run is cut short.

A header (what ran, on what, how many checks were planned), a line a check as soon as it is known, and a footer with the
counts. A line names a case and, where a relation was checked on it, the relation. A record without its footer is
incomplete, and `read` says so. A line keeps the true status where a failure was expected, and says what was.
"""

import hashlib
import json
import lzma
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from conformance import graphs, inputs, relations
from conformance.backends import named
from conformance.check import Check
from conformance.graphs import GraphRelation
from conformance.status import YET_RIGHT, Status
from reference import attention as oracle

FORMAT = 1

Result = dict[str, Any]
"""A line of a record: what came of one check."""

EXPECTED = ("entry", "status", "reason", "issue")
"""What a line says of the declared gap that it was expected to be."""


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


def with_result(results: Iterable[dict[str, Any]]) -> frozenset[str]:
    """The digests of the lines that say what came of a check; one that was not run has no result yet."""
    return frozenset(result["digest"] for result in results if result["status"] != Status.NOT_RUN)


def fails(result: dict[str, Any]) -> bool:
    """Does a line make a run not conformant? A failure does that was not expected, and all but the one that was."""
    status = Status(result["status"])
    return status != result["expected"]["status"] if "expected" in result else not status.conformant


def right(result: Result) -> bool:
    """Was the answer right, be it that the kernel is not claimed to give it?"""
    return result["status"] == Status.PASS or (
        result["status"] == Status.UNSUPPORTED and str(result.get("reason", "")).endswith(YET_RIGHT)
    )


def in_folder(folder: Path) -> list[Path]:
    """The files of a folder that are named as records are, those that xz made small among them. Raises OSError."""
    return sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.xz")])


def try_to_write(path: Path) -> None:
    """Raises OSError if `path` cannot be written; leaves what is there, or that nothing is there, as it was."""
    is_new = not path.exists()
    path.open("ab").close()
    if is_new:
        path.unlink()


class Writer:
    """Writes a record line by line; a line is on disk as soon as its check is done.

    The file appears with its first line: a run that never started leaves none. Raises BadRecord if there is one
    already, so that nothing recorded is lost, or if none can be made. A file that cannot grow later, on a full disk,
    costs no result of the run's: `failed` says why, and nothing more is written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.failed = path, ""
        self._file: TextIO | None = None
        try:
            if path.is_dir():
                raise BadRecord(f"cannot record to {path}: it is a folder")
            if path.exists():
                raise BadRecord(f"{path} exists and is kept: delete it, or record somewhere else")
        except OSError as e:  # a name that no file can have
            raise BadRecord(f"cannot record to {path}: {e.strerror}") from e
        try:
            try_to_write(path)
        except OSError as e:
            raise BadRecord(f"cannot record to {path}: {e.strerror}") from e

    def header(self, planned: int, run: dict[str, Any], environment: dict[str, str], **more: Any) -> None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        header = {"started": started, "planned": planned, "run": run, "environment": environment}
        self._write("header", **{"format": FORMAT, **header, **more})

    def case(self, **figures: Any) -> None:
        self._write("case", **figures)

    def footer(self, counts: Counter[str], seconds: float) -> None:
        self._write("footer", counts=dict(sorted(counts.items())), seconds=round(seconds, 1))

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # of what was left to write: `failed` has told
                self._file.close()

    def _write(self, kind: str, **content: Any) -> None:
        if self.failed:
            return
        line = json.dumps({"kind": kind, **content}, allow_nan=False) + "\n"
        try:
            if self._file is None:
                self._file = self.path.open("x", encoding="utf-8")
            self._file.write(line)
            self._file.flush()
        except OSError as e:
            self.failed = e.strerror or str(e)


@dataclass(frozen=True)
class Record:
    """A record read back.

    `complete` says that it ends with its footer, whose counts are those of its lines, and has one result for every
    planned check.
    """

    header: dict[str, Any]
    cases: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    seconds: float | None = None  # that the run took, if it came to its end

    @property
    def run(self) -> dict[str, Any]:
        """What was run, as the header has it: plan, backend, options, aiter."""
        return self.header["run"]

    @property
    def name(self) -> str:
        """As a run calls its system."""
        backend, aiter = str(self.run.get("backend", "?")), self.run.get("aiter", {}).get("version") or ""
        own = self.header.get("environment", {}).get(backend) or ""
        return named(backend, own if aiter else "", aiter)

    @property
    def options(self) -> dict[str, str]:
        """The options that chose its system, by name: `--target`, `--aiter`."""
        words = self.run.get("options", [])
        return dict(zip(words[::2], words[1::2], strict=False))

    @property
    def target(self) -> str:
        """`gpu:gfx942`; what was asked for, `gpu`, where nothing ran on it."""
        return self.header["environment"].get("target", self.options.get("--target", "?"))

    @property
    def counts(self) -> Counter[Status]:
        return Counter(Status(case["status"]) for case in self.cases)


def read(path: Path) -> Record:
    """Read a record; one that was cut short, even within a line, keeps what it has.

    What xz made small is read too, if it is whole. Raises BadRecord.
    """
    header, *entries = _entries(path)
    cases, footer = [], None
    for number, entry in enumerate(entries, 2):
        if footer is not None:
            raise BadRecord(f"{path}, line {number}: its footer is not its last line")
        if _is_result(entry):
            if not _expects_in_full(entry):
                raise BadRecord(f"{path}, line {number}: what was expected lacks one of {', '.join(EXPECTED)}")
            cases.append(entry)
        elif isinstance(entry, dict) and entry.get("kind") == "footer" and isinstance(entry.get("counts"), dict):
            footer = entry
        else:
            raise BadRecord(f"{path}, line {number}: neither a case with a status nor a footer with counts")
    record = Record(header, cases, seconds=footer.get("seconds") if footer else None)
    whole = len(cases) == len({check_id(c) for c in cases}) == header["planned"]
    return replace(record, complete=whole and footer is not None and footer["counts"] == record.counts)


def _entries(path: Path) -> list[Any]:
    """The lines of a record, the first of which is a header. Raises BadRecord."""
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            lines = file.read().decode("utf-8").splitlines()
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as e:
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
    if not all(isinstance(header.get(name), dict) for name in ("run", "environment")):
        raise BadRecord(f"{path} is not a record: its header does not say what was run, and where")
    return entries


def _is_result(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.get("kind") != "case":
        return False
    words = [entry.get("case"), entry.get("status"), entry.get("relation", "")]
    return all(isinstance(word, str) for word in words) and words[1] in set(Status)


def _expects_in_full(result: dict[str, Any]) -> bool:
    if "expected" not in result:
        return True
    expected = result["expected"]
    return (
        isinstance(expected, dict)
        and all(isinstance(expected.get(name), str) for name in EXPECTED)
        and expected["status"] in set(Status)
    )
