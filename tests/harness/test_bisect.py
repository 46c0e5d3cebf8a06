"""Bisection: the right commit, by git itself, in a repository that stays as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.triage import journal
from conformance.triage.journal import TRIALS, Plan, Trial
from tests.harness import mutable_aiter
from tests.harness.conftest import Done
from tests.harness.small_aiter import KERNEL, Checkout

CASE = "decode-noncausal-bf16-b1-q2-h2:1-d16-p4-kv9-packed-random"

RESULTS: dict[str, dict[str, Any]] = {
    "right": {"status": "PASS"},
    "wrong": {"status": "MISMATCH", "path": "kvcache", "reason": "an element exceeds its error bound",
              "rows": "with keys"},
    "nan": {"status": "NONFINITE", "path": "kvcache", "reason": "3 elements are not finite, 3 of them NaN"},
    "unclaimed": {"status": "UNSUPPORTED", "reason": "no idle sequence; not claimed, and yet right"},
    "declined": {"status": "UNSUPPORTED", "reason": "no idle sequence; refused by the kernel too: no"},
    "absent": {"status": "NOT RUN", "reason": "AITER does not import"},
}  # fmt: skip
"""What comes of the case on a commit whose kernel answers so."""


class Tried(list[str]):
    """The ids of commits; an interrupt comes with the one of that number, once."""

    interrupt_at = 0


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tried:
    """The commits that are tried, in order; what comes of one is what its kernel says, without running it."""
    monkeypatch.setenv("CONFORMANCE_CACHE", str(tmp_path / "cache"))
    commits = Tried()

    def said(plan: Plan, commit: str) -> Trial:
        commits.append(commit)
        if len(commits) == commits.interrupt_at:
            raise KeyboardInterrupt
        text = Checkout.at(Path(plan.repository)).git("show", f"{commit}:{KERNEL}")
        said = re.search("'(.*)'", text)
        assert said is not None
        return Trial(commit, RESULTS[said[1].split()[0]], "", 0.1)

    monkeypatch.setattr(journal, "_tried", said)
    return commits


@pytest.fixture
def bisect(command: Callable[..., Done], tried: Tried) -> Callable[..., Done]:
    """`bisect CASE` with these options, in this process."""

    def bisect(repository: Path, *options: str, case: str = CASE) -> Done:
        return command("bisect", case, "--aiter", repository, "--target", "interpreter", *options)

    return bisect


def history(path: Path, *answers: str) -> tuple[Checkout, list[str]]:
    """Commits whose kernels answer so, each by another text, the first of which is v1.0 and the last v2.0."""
    checkout = Checkout(path)
    tags = {0: ["v1.0"], len(answers) - 1: ["v2.0"]}
    return checkout, [checkout.commit(f"{answer} {i}", *tags.get(i, [])) for i, answer in enumerate(answers)]


def field(done: Done, name: str) -> str:
    found = re.search(rf"^  {name} +(.*)$", done.out, re.MULTILINE)
    assert found is not None, done.printed
    return found[1]


def state(checkout: Checkout) -> dict[str, Any]:
    """All files of a repository, and of its folder of git."""
    return {str(p): p.read_bytes() for p in sorted(checkout.path.rglob("*")) if p.is_file() and p.name != "index"}


@pytest.mark.parametrize("first", [1, 4, 7])
def test_the_first_bad_commit_is_found(bisect: Callable[..., Done], tried: Tried, tmp_path: Path, first: int) -> None:
    checkout, commits = history(tmp_path / "aiter.git", *["right"] * first, *["wrong"] * (8 - first))
    before = state(checkout)
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "v2.0")
    assert done.code == 0, done.printed
    assert "first bad commit" in done.out
    assert (field(done, "commit"), field(done, "title")) == (commits[first], f"wrong {first}")
    assert field(done, "versions") == "2.0"
    assert field(done, "files") == "1 of the kernels', 0 others"
    assert f"+1 -1  {KERNEL}" in done.out
    assert len(tried) == len(set(tried)) <= 2 + 3
    assert state(checkout) == before


def test_what_is_not_claimed_and_yet_right_is_good(bisect: Callable[..., Done], tmp_path: Path) -> None:
    checkout, commits = history(tmp_path / "aiter", *["unclaimed"] * 3, *["wrong"] * 2)
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "v2.0")
    assert done.code == 0, done.printed
    assert field(done, "commit") == commits[3]
    swapped, _ = history(tmp_path / "other", "right", "unclaimed")
    assert "the check does not fail: it is UNSUPPORTED" in bisect(swapped.path, "--good", "v1.0", "--bad", "v2.0").err
    refused, _ = history(tmp_path / "third", "declined", "wrong")
    assert "the check does not pass: it is UNSUPPORTED" in bisect(refused.path, "--good", "v1.0", "--bad", "v2.0").err


def test_the_first_good_commit_is_found_in_a_bare_repository(bisect: Callable[..., Done], tmp_path: Path) -> None:
    checkout, commits = history(tmp_path / "aiter", *["wrong"] * 4, *["right"] * 2)
    bare = checkout.bare(tmp_path / "aiter.git")
    done = bisect(bare, "--bad", "v1.0", "--good", "main", "--fixed")
    assert done.code == 0, done.printed
    assert "first good commit" in done.out
    assert field(done, "commit") == commits[4]


def test_commits_that_change_no_kernel_are_not_tried(bisect: Callable[..., Done], tried: Tried, tmp_path: Path) -> None:
    checkout, _ = history(tmp_path / "aiter", "right", "right", "wrong")
    changed = checkout.git("rev-parse", "HEAD")
    for number in range(6):
        (checkout.path / "aiter/unrelated.py").write_text(f"{number}\n")
        checkout.git("commit", "--quiet", "--all", "--message", "something else")
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "main")
    assert field(done, "commit") == changed
    assert len(tried) <= 4
    assert field(done, "versions") == "2.0"


@pytest.mark.parametrize("between", ["nan", "absent"])
def test_what_fails_in_another_way_is_skipped_and_a_range_is_said_to_be_one(
    bisect: Callable[..., Done], tmp_path: Path, between: str
) -> None:
    checkout, commits = history(tmp_path / "aiter", "right", "right", between, between, "wrong", "wrong")
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "v2.0")
    assert done.code == 3, done.printed
    assert "one of these 3 commits is the first bad one" in done.out
    listed = done.out.partition("one of these")[2]
    assert {commit[:10] for commit in commits if commit[:10] in listed} == {commit[:10] for commit in commits[2:5]}
    assert listed.index(commits[4][:10]) < listed.index(commits[2][:10])
    assert RESULTS[between]["reason"] in listed


def test_a_mismatch_of_another_kernel_is_another_failure(
    bisect: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESULTS, "elsewhere", RESULTS["wrong"] | {"path": "unified"})
    checkout, _ = history(tmp_path / "aiter", "right", "elsewhere", "wrong")
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "v2.0")
    assert (done.code, "one of these 2 commits" in done.out) == (3, True), done.printed


def test_an_interrupted_bisection_goes_on_where_it_was(
    bisect: Callable[..., Done], tried: Tried, tmp_path: Path
) -> None:
    checkout, commits = history(tmp_path / "aiter", *["right"] * 5, "wrong", "wrong")
    tried.interrupt_at = 4
    words = ["--good", "v1.0", "--bad", "v2.0"]
    stopped = bisect(checkout.path, *words)
    assert stopped.code == 3
    assert "interrupted" in stopped.err
    done = bisect(checkout.path, *words)
    assert done.code == 0, done.printed
    assert "going on" in done.out
    assert field(done, "commit") == commits[5]
    assert len(tried) == len(set(tried)) + 1  # the one that was interrupted, twice
    assert tried[3] == tried[4]
    so_far = len(tried)
    again = bisect(checkout.path, *words)
    assert (again.code, len(tried)) == (0, so_far)
    assert field(again, "commit") == commits[5]


def test_a_line_of_the_journal_that_was_cut_short_costs_one_trial(
    bisect: Callable[..., Done], tried: Tried, tmp_path: Path
) -> None:
    checkout, _ = history(tmp_path / "aiter", "right", "wrong")
    words = ["--good", "v1.0", "--bad", "v2.0"]
    assert bisect(checkout.path, *words).code == 0
    (kept,) = (tmp_path / "cache").rglob(TRIALS)
    lines = kept.read_text().splitlines()
    assert len(lines) == 2
    json.loads(lines[0])
    kept.write_text(f"{lines[0]}\n{lines[1][:20]}")
    assert bisect(checkout.path, *words).code == 0
    assert len(tried) == 3


def test_where_both_ends_stem_from_is_tried_too(bisect: Callable[..., Done], tmp_path: Path) -> None:
    """A release branch on which the defect was mended is no good end of the branch that has it."""
    checkout, (base, *_) = history(tmp_path / "aiter", "wrong", "wrong")
    checkout.git("checkout", "--quiet", "-b", "release", base)
    mended = checkout.commit("right 9", "v1.0.post1")
    done = bisect(checkout.path, "--good", "v1.0.post1", "--bad", "v2.0")
    assert done.code == 2, done.printed
    assert f"on {base[:10]}, from which both ends stem, the check already fails" in done.err
    assert f"--fixed --bad {base[:10]} --good {mended[:10]}" in done.err
    done = bisect(checkout.path, "--fixed", "--bad", base, "--good", mended)
    assert field(done, "commit") == mended


def test_merges_are_searched_along_every_parent(bisect: Callable[..., Done], tmp_path: Path) -> None:
    checkout, (base, _) = history(tmp_path / "aiter", "right", "right")
    checkout.git("checkout", "--quiet", "-b", "feature", base)
    checkout.commit("right 7")
    guilty = checkout.commit("wrong 8")
    checkout.git("checkout", "--quiet", "main")
    checkout.git("merge", "--quiet", "--no-edit", "--strategy=ours", "feature")
    (checkout.path / KERNEL).write_text(checkout.git("show", f"{guilty}:{KERNEL}"))
    checkout.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "main")
    assert field(done, "commit") == guilty, done.printed


@pytest.mark.parametrize(
    ("answers", "options", "says"),
    [
        (["wrong", "wrong"], ["--good", "v1.0", "--bad", "v2.0"], "the check does not pass: it is MISMATCH"),
        (["right", "right"], ["--good", "v1.0", "--bad", "v2.0"], "the check does not fail: it is PASS"),
        (["right", "absent"], ["--good", "v1.0", "--bad", "v2.0"], "cannot be tried: AITER does not import"),
        (["right", "wrong"], ["--good", "v2.0", "--bad", "v1.0"], "--fixed finds the first good one"),
        (["right", "wrong"], ["--fixed", "--good", "v2.0", "--bad", "v2.0"], "are the same commit"),
        (["right", "wrong"], ["--good", "v1.0", "--bad", "v3.0"], "has no commit 'v3.0'"),
        (["right", "wrong"], ["--good", "v1.5", "--bad", "v2.0"], "has no commit 'v1.5'"),
    ],
)
def test_ends_between_which_nothing_can_be_found_are_refused(
    bisect: Callable[..., Done], tmp_path: Path, answers: list[str], options: list[str], says: str
) -> None:
    checkout, _ = history(tmp_path / "aiter", *answers)
    done = bisect(checkout.path, *options)
    assert done.code == 2, done.printed
    assert says in done.err
    assert len(done.err.splitlines()) == 1


def test_a_tree_without_history_and_a_backend_without_aiter_are_refused(
    bisect: Callable[..., Done], tmp_path: Path
) -> None:
    checkout, _ = history(tmp_path / "aiter", "right", "wrong")
    done = bisect(tmp_path, "--good", "v1.0", "--bad", "v2.0")
    assert (done.code, "not a git repository" in done.err) == (2, True), done.printed
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "v2.0", "--backend", "torch")
    assert (done.code, "backend torch does not use AITER" in done.err) == (2, True), done.printed
    done = bisect(checkout.path, "--good", "v1.0", "--bad", "v2.0", case="no-case")
    assert (done.code, "not a case id" in done.err) == (2, True), done.printed


def test_kernels_of_each_commit_really_run(
    command: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test that tries commits in children of their own; the kernel is interpreted."""
    monkeypatch.setenv("CONFORMANCE_CACHE", str(tmp_path / "cache"))
    checkout = Checkout(tmp_path / "small")
    mutable_aiter.write(checkout.path)
    checkout.git("add", "--all")
    checkout.git("commit", "--quiet", "--message", "right")
    right = checkout.git("rev-parse", "HEAD")
    module = checkout.path / "aiter/ops/triton/small_decode.py"
    module.write_text(module.read_text().replace("FACTOR = 1.0", "FACTOR = 0.5"))
    checkout.git("commit", "--quiet", "--all", "--message", "half as steep")
    case, ends = CASE.replace("p4", "p16"), ["--good", right, "--bad", "main"]
    done = command("bisect", case, "--aiter", checkout.path, "--target", "interpreter", *ends)
    assert done.code == 0, done.printed
    assert field(done, "title") == "half as steep"
    assert field(done, "failure") == "MISMATCH, output, in rows with keys, on kvcache"
    assert field(done, "versions") == "none yet"
