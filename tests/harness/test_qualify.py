"""Qualifying versions: which are meant, what is run and what is not, what an interruption costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.aiter_source import AiterNotFound
from conformance.check import Check, of_tier
from conformance.plan import Plan
from conformance.qualify.places import Place
from conformance.qualify.store import Job, Store
from conformance.qualify.versions import BadVersions, versions
from conformance.record import BadRecord, Writer, check_id, digest, read
from tests.harness.conftest import HERE, ROOT, Done
from tests.harness.small_aiter import Checkout, write_tree

PLAIN = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"
DRAFT = "decode-noncausal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"
SHORT = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+3-packed-random"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setenv("CONFORMANCE_CACHE", str(tmp_path / "cache"))
    return Checkout(tmp_path / "checkout")


def found(words: Sequence[str], every: str = "tag") -> list[str]:
    return [version.source.version.partition("+")[0] for version in versions(words, every)[0]]


class TestVersions:
    def test_each_is_named_once_and_a_bare_ref_is_of_the_last_repository(self, checkout: Checkout) -> None:
        for number in (15, 16, 17):
            checkout.commit(str(number), f"v0.1.{number}")
        assert found([f"{checkout.path}@v0.1.17", "@v0.1.15", "@main", "@v0.1.15"]) == ["0.1.17", "0.1.15"]
        with pytest.raises(BadVersions, match=r"@v0\.1\.15 is of the repository named before it, and there is none"):
            versions(["@v0.1.15"], "tag")

    def test_a_range_of_releases_is_in_the_order_of_versions_wherever_they_lie(self, checkout: Checkout) -> None:
        """Releases on branches of their own: none contains another."""
        base = checkout.commit("base")
        for number in (9, 10, 16, 15):
            checkout.git("checkout", "--quiet", "-b", f"release{number}", base)
            checkout.commit(str(number), f"v0.1.{number}")
        assert found([f"{checkout.path}@v0.1.9..v0.1.15"]) == ["0.1.9", "0.1.10", "0.1.15"]
        with pytest.raises(BadVersions, match=r"v0\.1\.15\.\.v0\.1\.9 is no range: v0\.1\.9 is the older version"):
            versions([f"{checkout.path}@v0.1.15..v0.1.9"], "tag")

    def test_a_range_to_a_branch_has_the_tags_on_the_way_and_the_branch(self, checkout: Checkout) -> None:
        for number in (14, 15, 16):
            checkout.commit(str(number), f"v0.1.{number}")
        checkout.commit("tip")
        assert found([f"{checkout.path}@v0.1.15..main"]) == ["0.1.15", "0.1.16", "0.1.17.dev1"]

    def test_every_second_commit_that_changes_a_kernel(self, checkout: Checkout) -> None:
        first = checkout.commit("0", "v0.1.0")
        changes = [checkout.commit(str(number)) for number in range(1, 6)]
        checkout.git("commit", "--quiet", "--allow-empty", "--message", "nothing")
        some, notes = versions([f"{checkout.path}@{first}..{changes[-1]}"], "2")
        assert [version.key for version in some] == [first, changes[1], changes[3], changes[4]]
        assert notes == []

    def test_what_is_no_aiter_in_a_range_is_left_out_and_said(self, checkout: Checkout) -> None:
        checkout.commit("1", "v0.1.1")
        checkout.git("rm", "-r", "--quiet", "aiter/ops")
        checkout.git("commit", "--quiet", "--message", "no kernels")
        checkout.git("tag", "v0.1.2")
        write_tree(checkout.path)
        checkout.commit("3", "v0.1.3")
        some, notes = versions([f"{checkout.path}@v0.1.1..v0.1.3"], "tag")
        assert [version.source.version for version in some] == ["0.1.1", "0.1.3"]
        assert len(notes) == 1
        assert "left out: commit" in notes[0]
        with pytest.raises(AiterNotFound, match="it is not AITER"):
            versions([f"{checkout.path}@v0.1.2"], "tag")

    def test_a_tree_is_another_version_once_it_was_edited(self, tmp_path: Path) -> None:
        tree = write_tree(tmp_path / "tree")
        ((before,), _), ((same,), _) = versions([str(tree)], "tag"), versions([str(tree)], "tag")
        write_tree(tree, body="edited = 1\n")
        ((after,), _) = versions([str(tree)], "tag")
        assert before.key == same.key != after.key != ""


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Job:
    ((version,), _) = versions([str(write_tree(tmp_path / "tree"))], "tag")
    environment = {"target": "interpreter:gfx942", "torch": "2.13.0", "triton": "3.7.1"}
    place = Place(Path(sys.executable), "aiter", "interpreter", environment)
    return Store(tmp_path).job(version, place, plan(PLAIN, DRAFT))


def plan(*checks: str) -> Plan:
    return Plan("some", list(map(Check.parse, checks)))


def draft(job: Job, results: dict[str, str], key: str = "", **more: Any) -> None:
    writer = Writer(job.draft)
    run = job.run_header() | {"plan": job.plan.recorded()}
    writer.header(len(job.plan.every), run, {} if set(results.values()) == {"NOT RUN"} else job.place.environment)
    for check, status in results.items():
        writer.case(case=check, digest=key or digest(Check.parse(check)), status=status, **more)
    writer.close()


def statuses(job: Job) -> dict[str, str]:
    return {check_id(line): line["status"] for line in read(job.file).cases}


def superseded(job: Job) -> list[Path]:
    return list((job.file.parent / "superseded").glob("*.jsonl"))


class TestStore:
    def test_a_cut_run_is_taken_over_and_only_the_rest_is_left(self, job: Job) -> None:
        store = Store(job.file.parent)
        draft(job, {PLAIN: "PASS"})
        with job.draft.open("a") as file:
            file.write('{"kind": "case", "case": "decode-')  # where the run was killed
        store.take_over(job)
        assert not job.draft.exists()
        assert not read(job.file).complete
        assert [check.id for check in store.left(job)] == [DRAFT]
        draft(job, {DRAFT: "MISMATCH"})
        store.take_over(job)
        record = read(job.file)
        assert record.complete
        assert statuses(job) == {PLAIN: "PASS", DRAFT: "MISMATCH"}
        assert [part["results"] for part in record.header["parts"]] == [1, 1]
        assert store.left(job) == []
        assert superseded(job) == []

    def test_what_was_not_run_is_left_and_a_record_says_where_it_would_have_run(self, job: Job) -> None:
        store = Store(job.file.parent)
        draft(job, {PLAIN: "NOT RUN", DRAFT: "NOT RUN"}, reason="does not import")
        store.take_over(job)
        assert read(job.file).header["environment"]["triton"] == "3.7.1"
        assert len(store.left(job)) == 2
        draft(job, {PLAIN: "PASS"})
        store.take_over(job)
        assert statuses(job) == {PLAIN: "PASS", DRAFT: "NOT RUN"}
        draft(job, {PLAIN: "NOT RUN"})
        store.take_over(job)
        assert statuses(job)[PLAIN] == "PASS"
        assert superseded(job) == []

    def test_a_result_that_is_replaced_is_kept_aside(self, job: Job) -> None:
        store = Store(job.file.parent)
        for status in ("PASS", "MISMATCH"):
            draft(job, {PLAIN: status, DRAFT: "PASS"})
            store.take_over(job)
        assert statuses(job)[PLAIN] == "MISMATCH"
        (old,) = superseded(job)
        assert {line["status"] for line in read(old).cases} == {"PASS"}

    def test_results_of_another_oracle_are_run_again_and_kept_aside(self, job: Job) -> None:
        store = Store(job.file.parent)
        draft(job, {PLAIN: "PASS", DRAFT: "PASS"}, key="0123")
        job.draft.rename(job.file)
        assert len(store.left(job)) == 2
        draft(job, {PLAIN: "MISMATCH"})
        store.take_over(job)
        assert statuses(job) == {PLAIN: "MISMATCH"}
        assert len(superseded(job)) == 1

    def test_another_tier_adds_to_what_is_known(self, job: Job) -> None:
        store = Store(job.file.parent)
        draft(job, {PLAIN: "PASS", DRAFT: "PASS"})
        store.take_over(job)
        other = replace(job, plan=plan(DRAFT, SHORT))
        assert [check.id for check in store.left(other)] == [SHORT]
        draft(other, {SHORT: "PASS"})
        store.take_over(other)
        record = read(job.file)
        assert record.complete
        assert record.header["run"]["plan"]["title"] == "some and 1 other checks"
        assert len(record.cases) == 3

    def test_two_do_not_write_to_one_folder(self, tmp_path: Path) -> None:
        again = pytest.raises(BadRecord, match="another qualification is at work in")
        with Store(tmp_path).locked(), again, Store(tmp_path).locked():
            pass
        with Store(tmp_path).locked():
            pass


# -- whole qualifications ----------------------------------------------------------------------------------------------


def test_an_interrupted_qualification_goes_on_where_it_was(checkout: Checkout, elsewhere: Path) -> None:
    checkout.commit("15", "v0.1.15")
    checkout.commit("16", "v0.1.16")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE))), "OMP_NUM_THREADS": "1"}

    def qualify() -> Done:
        command = [sys.executable, "-m", "conformance", "qualify", "--aiter", f"{checkout.path}@v0.1.15..v0.1.16",
                   "--backend", "answers:interrupts_a_qualification", "--target", "cpu", "--tier", "masks",
                   "--format", "json"]  # fmt: skip
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    planned, folder = len(of_tier("masks")), elsewhere / "qualification"
    cut = qualify()
    assert cut.code == 3, cut.printed
    assert "interrupted: the same command goes on from here" in cut.err
    (first,) = folder.glob("*.jsonl")
    before = read(first)
    assert 0 < len(before.cases) < planned
    tried = json.loads(cut.out)["tables"][0]["versions"]
    assert [(one["name"], one["complete"]) for one in tried] == [("0.1.15", False), ("0.1.16", False)]
    assert tried[1]["cause"] == "not run yet"

    whole = qualify()
    assert whole.code == 0, whole.printed
    assert f"{2 * planned - len(before.cases)} checks to run, in 2 runs" in whole.err
    after = read(first)
    assert after.complete
    assert after.cases[: len(before.cases)] == before.cases  # their seconds too: they were not run again
    shown = json.loads(whole.out)
    assert shown["verdict"] == "CONFORMANT: 0.1.15, 0.1.16."
    (decodes,) = [row for row in shown["tables"][0]["features"] if row["feature"] == "non-causal decode"]
    assert decodes["claim"] == "throughout"
    assert Counter(cell["worst"] for cell in decodes["cells"]) == {"PASS": 2}
    assert len(list(folder.iterdir())) == 3  # two records and the lock: no draft, no log


def test_a_version_that_does_not_import_is_a_row(checkout: Checkout, command: Callable[..., Done]) -> None:
    pytest.importorskip("triton")
    checkout.commit("15", "v0.1.15")
    done = command("qualify", "--aiter", f"{checkout.path}@v0.1.15", "--target", "interpreter", "--tier", "masks")
    assert done.code == 3, done.printed
    assert "NOT RUN: 0.1.15." in done.out
    assert "0/0/24" in done.out
    assert "AITER 0.1.15 (" in done.out
    assert "has no module aiter.ops.triton" in done.out
    again = command("qualify")  # what the folder holds
    assert again.code == 3
    assert "AITER 0.1.15 (" in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "nothing"], "nothing holds no record: name what to qualify with --aiter"),
        (["--aiter", "nowhere"], "no AITER at 'nowhere': there is no such path"),
        (["--aiter", "TREE", "--every", "0"], "--every 0: write tag, or a number of commits from 1"),
        (["--aiter", "TREE", "--tier", "nope"], "nope"),
        (["--aiter", "TREE", "--python", "nowhere"], "--python nowhere is neither a virtual environment nor a Python"),
        (["--aiter", "TREE", "--python", "/bin/false"], "/bin/false does not run the suite: exit code 1"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, command: Callable[..., Done], words: list[str], said: str) -> None:
    tree = write_tree(tmp_path / "tree")
    done = command("qualify", *(str(tree) if word == "TREE" else word for word in words))
    assert done.code == 2, done.printed
    assert said in done.err
    assert done.err.count("\n") == 1
