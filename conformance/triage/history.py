"""AITER's history in a clone of our own, which shares the user's objects alone, and git's bisection of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conformance.aiter_repository import EXPORTED, AiterNotFound

OLD, NEW, SKIPPED = 0, 1, 125
"""What `git bisect run` is told of a commit, as the exit code of the command that it runs."""

ASK = "to be tried: "

COMMAND = f'echo "{ASK}$(git rev-parse BISECT_HEAD)"; read -r code; exit "${{code:-255}}"'
"""Run for each commit: asks whoever reads git's output, who may be dear to start, and passes on what is answered.

Nothing is checked out: BISECT_HEAD names the commit. Without an answer git stops.
"""


@dataclass(frozen=True)
class Commit:
    """A commit, as a person wants to read of it."""

    id: str
    title: str
    date: str

    def __str__(self) -> str:
        return f"{self.id[:10]}  {self.date}  {self.title}"


@dataclass(frozen=True)
class History:
    """A bare clone at `path`, in which git bisects: `term_old` came before `term_new`."""

    path: Path
    term_old: str = "good"
    term_new: str = "bad"

    @classmethod
    def cloned(cls, repository: Path, path: Path, term_old: str, term_new: str) -> History:
        """The clone at `path`, made first where there is none. Raises AiterNotFound."""
        history = cls(path, term_old, term_new)
        if not (path / "HEAD").is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _run("clone", "--bare", "--shared", "--quiet", str(repository), str(path))
        return history

    def start(self, old: str, new: str) -> None:
        """Begins a bisection between two commits, or leaves the one that is under way; raises AiterNotFound.

        Only commits that change what is exported of AITER are tried: all others run alike.
        """
        if self.log:
            return
        terms = (f"--term-old={self.term_old}", f"--term-new={self.term_new}")
        self._git("bisect", "start", "--no-checkout", *terms, new, old, "--", *EXPORTED)

    def run(self, answer: Callable[[str], int]) -> Iterator[str]:
        """Lets git ask for one commit after another until it knows; yields what git says, line by line.

        `answer` gives OLD, NEW or SKIPPED for a commit.
        """
        words = ["git", "-C", str(self.path), "bisect", "run", "sh", "-c", COMMAND]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            bufsize=1, env=_without_git(),
        ) as git:  # fmt: skip
            assert git.stdin is not None
            assert git.stdout is not None
            try:
                for line in git.stdout:
                    if line.startswith(ASK):
                        git.stdin.write(f"{answer(line.removeprefix(ASK).strip())}\n")
                    else:
                        yield line.rstrip("\n")
            finally:
                with suppress(BrokenPipeError):
                    git.stdin.close()  # which ends a command that still asks, and then git

    @property
    def log(self) -> str:
        """Git's own log of the bisection; "" where none is under way."""
        file = self.path / "BISECT_LOG"
        return file.read_text(errors="replace") if file.is_file() else ""

    @property
    def first(self) -> str:
        """The first new commit, "" as long as git does not know it."""
        found = re.findall(rf"^# first {self.term_new} commit: \[(\w+)\]", self.log, re.MULTILINE)
        return found[-1] if found else ""

    @property
    def possible(self) -> list[str]:
        """Where all that is left was skipped, the commits among which the first new one is; the oldest last."""
        return re.findall(rf"^# possible first {self.term_new} commit: \[(\w+)\]", self.log, re.MULTILINE)

    def commit(self, name: str) -> Commit:
        return Commit(*self._git("show", "--no-patch", "--format=%H%x00%s%x00%cs", name).split("\0"))

    def parents(self, commit: str) -> list[str]:
        return self._git("show", "--no-patch", "--format=%P", commit).split()

    def files(self, commit: str) -> list[str]:
        """What a commit changed, against its first parent, with the numbers of lines: `+12 -3  path`."""
        changed = self._git("diff", "--numstat", "-M", f"{commit}^1", commit, check=False)
        return [f"+{a} -{b}  {path}" for a, b, path in (line.split("\t", 2) for line in changed.splitlines())]

    def _git(self, *arguments: str, check: bool = True) -> str:
        return _run("-C", str(self.path), *arguments, check=check)


def _run(*arguments: str, check: bool = True) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, errors="replace", check=False, env=_without_git()
        )
    except FileNotFoundError as absent:
        raise AiterNotFound("git is not installed, and bisects") from absent
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise AiterNotFound(f"git cannot bisect: {said[0]}")
    return done.stdout.strip()


def _without_git() -> dict[str, str]:
    """Hooks run with GIT_DIR and its like set, which would point git at another repository than the one asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {"LC_ALL": "C"}  # what git says is read
