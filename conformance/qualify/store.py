"""The folder of a qualification: one record for each version, target, torch and Triton, that grows as more is asked.

A run writes a draft beside it. What a draft has is taken over when the run ends, however it ends; nothing that was
recorded is lost: a record of which results are replaced is moved to `superseded/` first.
"""

from __future__ import annotations

import fcntl
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conformance import merge
from conformance.case import BadCase
from conformance.check import Check
from conformance.plan import Plan, joint
from conformance.qualify.places import Place
from conformance.qualify.versions import Version
from conformance.record import BadRecord, Record, Result, check_id, digest, in_folder, read, with_result
from conformance.status import Status

DRAFT, SUPERSEDED, LOCK = ".draft", "superseded", ".lock"


@dataclass(frozen=True)
class Job:
    """One version to be run at one place, by a plan; `file` is where its record is, or will be."""

    version: Version
    place: Place
    plan: Plan
    file: Path

    @property
    def draft(self) -> Path:
        return self.file.with_name(f"{self.file.stem}{DRAFT}")

    @property
    def log(self) -> Path:
        return self.file.with_suffix(".log")

    @property
    def described(self) -> str:
        """`0.1.16 on interpreter:gfx942`."""
        return f"{self.version.source.version} on {self.place.environment['target']}"

    def run_header(self) -> dict[str, Any]:
        """What a record says of it if its run cannot."""
        source = self.version.source
        aiter = {"version": source.version, "commit": source.commit, "origin": source.origin}
        return {"backend": self.place.backend, "options": [], "aiter": aiter}


@dataclass(frozen=True)
class Store:
    """The records of one folder."""

    folder: Path

    def job(self, version: Version, place: Place, plan: Plan) -> Job:
        """With the file whose name says of what it is, and that no other version, target, torch or Triton has."""
        setting = place.setting
        backend = [] if setting.backend == "aiter" else [setting.backend, setting.package]
        parts = [*backend, version.source.version.partition("+")[0], version.key[:7], setting.target, setting.device,
                 f"torch{setting.torch}", f"triton{setting.triton or '-none'}"]  # fmt: skip
        name = "-".join(re.sub(r"[^\w.+-]+", ".", part) for part in parts if part)
        return Job(version, place, plan, self.folder / f"{name}.jsonl")

    def records(self) -> list[Path]:
        """All that are there. Raises BadRecord for a folder that cannot be read."""
        try:
            return in_folder(self.folder)
        except OSError as e:
            raise BadRecord(f"cannot read {self.folder}: {e.strerror}") from e

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Nobody else writes here meanwhile: not even a child of a run that was killed. Raises BadRecord."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOCK).open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise BadRecord(f"another qualification is at work in {self.folder}") from None
                yield lock.fileno()
        except OSError as e:
            raise BadRecord(f"cannot write to {self.folder}: {e.strerror}") from e

    def held(self, job: Job) -> Record | None:
        """What is known of a job, of this version of the suite; None if nothing is. Raises BadRecord."""
        return read(job.file) if job.file.exists() else None

    def left(self, job: Job) -> list[Check]:
        """The checks of its plan that have no result yet."""
        held = self.held(job)
        known = with_result(held.cases) if held else frozenset()
        return [check for check in job.plan.every if digest(check) not in known]

    def take_over(self, job: Job) -> Record | None:
        """Put what a draft has into the record, and remove the draft; None where no draft is. Raises BadRecord."""
        if not job.draft.exists():
            return None
        try:
            new = read(job.draft)
        except BadRecord:  # not even its first line was written
            job.draft.unlink()
            return None
        before = self.held(job)
        lines = _together(before.cases if before else [], new.cases)
        record = _record(job, before, new, lines)
        fresh = job.file.with_name(f".{job.file.name}")
        fresh.unlink(missing_ok=True)
        merge.write(record, fresh)
        if before and _any_lost(before.cases, lines):
            self._keep(job.file)
        fresh.replace(job.file)
        job.draft.unlink()
        return record

    def _keep(self, file: Path) -> None:
        aside = self.folder / SUPERSEDED
        aside.mkdir(exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        file.rename(aside / f"{file.stem}.{stamp}.jsonl")


def not_run(job: Job, why: str = "") -> Record:
    """What a table shows of a job that left no record: every check not run, if it is known why."""
    header = {"run": job.run_header(), "environment": job.place.environment, "planned": len(job.plan.every)}
    if not why:
        return Record(header)
    return Record(header, [_line(check) | {"status": str(Status.NOT_RUN), "reason": why} for check in job.plan.every])


def _line(check: Check) -> Result:
    related = {"relation": check.relation.name} if check.relation else {}
    return {"case": check.case.id, **related, "digest": digest(check)}


def _together(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """A line for each check: the newer, unless only the older has a result. What is of another suite is left out."""
    lines = {check_id(result): result for result in old if _is_of_this_suite(result)}
    for result in new:
        before = lines.get(check_id(result))
        if before is None or before["status"] == Status.NOT_RUN or result["status"] != Status.NOT_RUN:
            lines[check_id(result)] = result
    return list(lines.values())


def _is_of_this_suite(result: Result) -> bool:
    try:
        return digest(Check.parse(check_id(result))) == result.get("digest")
    except BadCase:
        return False


def _any_lost(old: Iterable[Result], lines: Sequence[Result]) -> bool:
    """Is a result no longer there: replaced by a newer one, or of another suite?"""
    now = {check_id(result): result for result in lines}
    return any(now.get(check_id(result)) != result for result in old if result["status"] != Status.NOT_RUN)


def _record(job: Job, before: Record | None, new: Record, lines: list[Result]) -> Record:
    """Of the plan, and of what else there is; complete if all of it has a line."""
    planned = {digest(check) for check in job.plan.every}
    here = {result["digest"] for result in lines}
    title, more = job.plan.title, len(here - planned)
    plan = {
        "title": f"{title} and {more} other checks" if more else title,
        "checks": len(planned | here),
        "digest": joint(planned | here),
    }
    parts = [part for record in (before, new) if record for part in merge.parts_of(record)]
    files = {"files": job.version.files} if job.version.files else {}
    header = new.header | {
        "started": min(record.header.get("started", "") for record in (before, new) if record),
        "planned": plan["checks"],
        "run": new.run | {"plan": plan, "aiter": new.run.get("aiter", {}) | files},
        "environment": job.place.environment | new.header["environment"],
        "parts": parts,
    }
    seconds = sum(part["seconds"] or 0.0 for part in parts)
    counts = Counter(result["status"] for result in lines)
    return Record(header, lines, planned <= here and sum(counts.values()) == plan["checks"], seconds)
