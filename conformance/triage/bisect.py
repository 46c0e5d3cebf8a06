"""The first commit that made a check fail, or that mended it, found by `git bisect run` in a clone of our own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from conformance.aiter_repository import EXPORTED, Repository
from conformance.record import right
from conformance.status import Status
from conformance.summary import duration
from conformance.triage.history import NEW, OLD, SKIPPED, Commit, History
from conformance.triage.journal import BAD, GOOD, SKIP, Journal, Trial
from conformance.triage.signature import Signature

TERMS_OF_A_FIX = ("broken", "fixed")
"""How git calls the older commits and the newer: "good" may not be the newer."""


class CannotBisect(Exception):
    """A range that has no first bad commit, or no first good one, in one sentence."""


class Stopped(Exception):
    """A bisection that ended before its end, in one sentence; it can be gone on with."""


@dataclass(frozen=True)
class Found:
    """How a bisection ended: with one commit, or with several, all but one skipped, among which it is."""

    commits: list[Commit]  # the newest, which is no longer as the old end is, first
    files: list[str]  # that the one commit changed, and of which kernels need
    other_files: int
    merges: int  # its parents beyond the first
    versions: list[str]  # that contain the newest


def _found(history: History, repository: Repository) -> Found:
    commits = [history.commit(name) for name in ([history.first] if history.first else history.possible)]
    newest = commits[0].id
    changed = history.files(newest)
    exported = [file for file in changed if file.split("  ", 1)[1].startswith(EXPORTED)]
    versions = [str(version) for version in sorted(repository.versions_with(newest))]
    return Found(commits, exported, len(changed) - len(exported), len(history.parents(newest)) - 1, versions)


@dataclass
class Bisection:
    """From a commit `old` to a later one, `new`, one of which is good and the other bad."""

    journal: Journal
    repository: Repository
    good: str
    bad: str
    fixed: bool  # is the first good one looked for?
    say: Callable[[str], None]
    tried: int = 0
    fresh: dict[str, float] = field(default_factory=dict)
    """Seconds that each commit took which was not known before."""

    @property
    def ends(self) -> tuple[str, str]:
        """The older and the newer commit."""
        return (self.bad, self.good) if self.fixed else (self.good, self.bad)

    def run(self) -> Found:
        """Raises CannotBisect and Stopped, and AiterNotFound where git refuses."""
        self._require_order()
        self._try_ends()
        old, new = self.ends
        terms = TERMS_OF_A_FIX if self.fixed else (GOOD, BAD)
        path = self.journal.folder / f"{old[:12]}..{new[:12]}.git"
        history = History.cloned(self.repository.path, path, *terms)
        if history.log:
            self.say(f"going on with the bisection in {path}")
        history.start(old, new)
        if not (history.first or history.possible):
            self._follow(history)
        return _found(history, self.repository)

    def _require_order(self) -> None:
        old, new = self.ends
        if old == new:
            raise CannotBisect(f"the good and the bad end are the same commit, {old[:10]}")
        if self.repository.contains(old, new):
            other = "leave out --fixed" if self.fixed else "--fixed finds the first good one"
            raise CannotBisect(f"the {'good' if self.fixed else 'bad'} end comes before the other: {other}")

    def failure(self) -> Signature:
        """What is looked for: how the check fails on the bad commit."""
        return Signature.of(self.journal.trial(self.bad).result)

    def _try_ends(self) -> None:
        bad, good = self._told(self.bad, "the bad end"), self._told(self.good, "the good end")
        for trial, name in ((bad, self.bad), (good, self.good)):
            if trial["status"] == Status.NOT_RUN:
                raise CannotBisect(f"on {name[:10]} the check cannot be tried: {trial['reason']}")
        if right(bad):
            raise CannotBisect(f"on the bad end, {self.bad[:10]}, the check does not fail: it is {bad['status']}")
        if not right(good):
            raise CannotBisect(f"on the good end, {self.good[:10]}, the check does not pass: it is {good['status']}")

    def _told(self, commit: str, what: str) -> dict[str, Any]:
        trial = self._trial(commit)
        self.say(f"{what}  {commit[:10]}  {verdict(trial.result)}{self._took(trial)}")
        return trial.result

    def _trial(self, commit: str) -> Trial:
        if commit not in self.journal.known():
            self.fresh[commit] = self.journal.trial(commit).seconds
        return self.journal.trial(commit)

    def _took(self, trial: Trial) -> str:
        return f"  {duration(trial.seconds)}" if trial.commit in self.fresh else "  known"

    def _follow(self, history: History) -> None:
        """Tries what git asks for, and says what comes of it."""
        answers = {SKIP: SKIPPED} | ({BAD: OLD, GOOD: NEW} if self.fixed else {GOOD: OLD, BAD: NEW})
        failure, said = self.failure(), ""

        def answer(commit: str) -> int:
            trial = self._trial(commit)
            word = trial.word(failure)
            self.tried += 1
            self.say(f"{word:4}  {history.commit(commit)}{self._took(trial)}")
            if word == SKIP:
                self.say(f"      {verdict(trial.result)}")
            return answers[word]

        for said in history.run(answer):
            if left := re.match(r"Bisecting: (\d+) revisions? left .*roughly (\d+) step", said):
                self.say(f"      {self._estimate(int(left[1]), int(left[2]))}")
            elif base := re.match(r"The merge base (\w+) is", said):
                raise CannotBisect(self._beside(base[1]))
        if not (history.first or history.possible):
            raise Stopped(f"git bisect ended without an answer: {said}")

    def _estimate(self, commits: int, steps: int) -> str:
        left = f"{commits} left that touch the kernels, about {steps + 1} trials"
        if not self.fresh:
            return left
        return f"{left}, {duration((steps + 1) * sum(self.fresh.values()) / len(self.fresh))}"

    def _beside(self, base: str) -> str:
        """What it means that the commit from which both ends stem is no longer as the older end is."""
        base, good, bad = (name[:10] for name in (base, self.good, self.bad))
        if self.fixed:
            way = f"passes: it was broken on the way to {bad}, which --good {base} --bad {bad} finds"
        else:
            way = f"fails: it was mended on the way to {good}, which --fixed --bad {base} --good {good} finds"
        return f"on {base}, from which both ends stem, the check already {way}"


def verdict(result: dict[str, Any]) -> str:
    """A status, and why."""
    return f"{result['status']}: {result['reason']}" if result.get("reason") else result["status"]
