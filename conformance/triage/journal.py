"""What came of one check on commit after commit: a line of JSON each, kept when a bisection is cut short."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import Any

from conformance import __version__
from conformance.aiter_source import AiterNotFound, cache_folder
from conformance.check import Check
from conformance.record import digest, right
from conformance.status import Status
from conformance.system import NotReady, choose
from conformance.triage.signature import Signature
from conformance.triage.trials import trials_of

PLAN, TRIALS = "plan.json", "trials.jsonl"

GOOD, BAD, SKIP = "good", "bad", "skip"
"""What a commit is: the check is answered rightly, fails as it does on the bad one, or neither."""


@dataclass(frozen=True)
class Plan:
    """What is tried on each commit: a check, with a backend on a target, on the AITER of a repository."""

    check: str
    repository: str
    backend: str
    target: str

    @property
    def folder(self) -> Path:
        """Where its trials are kept: another suite, torch or Triton may see another thing in the same commit."""
        seen_by = [__version__, digest(Check.parse(self.check)), *map(_version, ("torch", "triton"))]
        key = hashlib.sha256(json.dumps([asdict(self), seen_by]).encode()).hexdigest()
        return cache_folder() / "bisect" / key[:16]


@dataclass(frozen=True)
class Trial:
    """What came of the check on one commit: its result as a record has it, and what a person should read."""

    commit: str
    result: dict[str, Any]
    text: str
    seconds: float

    def word(self, failure: Signature) -> str:
        """GOOD, BAD or SKIP: only what fails in the same way is bad."""
        if right(self.result):
            return GOOD
        return BAD if Signature.of(self.result).is_same(failure) else SKIP


@dataclass(frozen=True)
class Journal:
    """The trials of one plan, in `folder`."""

    folder: Path
    plan: Plan

    @classmethod
    def of(cls, plan: Plan) -> Journal:
        """Its folder is made where there is none. Raises AiterNotFound."""
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
            (plan.folder / PLAN).write_text(json.dumps(asdict(plan), indent=2) + "\n")
        except OSError as refused:
            raise AiterNotFound(f"trials cannot be kept in {plan.folder}: {refused}") from refused
        return cls(plan.folder, plan)

    @classmethod
    def read(cls, folder: Path) -> Journal:
        return cls(folder, Plan(**json.loads((folder / PLAN).read_text())))

    def known(self) -> dict[str, Trial]:
        """The trials so far, by commit. A line that was cut short is none."""
        file = self.folder / TRIALS
        found = {}
        for line in file.read_text().splitlines() if file.is_file() else ():
            try:
                trial = Trial(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[trial.commit] = trial
        return found

    def trial(self, commit: str) -> Trial:
        """What comes of the check on that commit, which is tried unless it was before."""
        if known := self.known().get(commit):
            return known
        trial = _tried(self.plan, commit)
        with (self.folder / TRIALS).open("a+b") as file:
            file.seek(max(0, file.tell() - 1))
            own_line = b"" if file.read() in (b"", b"\n") else b"\n"  # the last one may have been cut short
            file.write(own_line + json.dumps(asdict(trial)).encode() + b"\n")
        return trial


def _tried(plan: Plan, commit: str) -> Trial:
    """Runs the check in a child process, which imports the AITER of that commit."""
    started = monotonic()
    try:
        system = choose(plan.backend, plan.target, f"{plan.repository}@{commit}")
    except NotReady as refused:  # no AITER, or older than its kernels
        result = {"status": Status.NOT_RUN, "reason": str(refused)}
        return Trial(commit, result, str(refused), round(monotonic() - started, 1))
    with trials_of(system) as trials:
        outcome = trials.run(Check.parse(plan.check))
    return Trial(commit, outcome.result, outcome.text, round(monotonic() - started, 1))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
