"""Parts of the mutation analysis alone: children that die, hang or are left, records that were cut short, lists."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from conformance.detect import equivalents, forks
from conformance.detect.equivalents import BadEquivalent, Equivalent
from conformance.detect.mutants import mutants
from conformance.detect.record import BadRecord, Record, RecordEnded
from conformance.detect.trials import Baseline, Outcome

# -- children --------------------------------------------------------------------------------------------------------


def test_children_send_what_they_find_and_share_what_the_parent_made() -> None:
    shared = list(range(1000))

    def work(job: int, send: forks.Send) -> None:
        send(found=shared[job], text="x" * 200_000)  # more than a pipe holds
        send(last=True)

    ended = list(forks.each(range(5), work, at_once=2))
    assert sorted(one.sent[0]["found"] for one in ended) == [0, 1, 2, 3, 4]
    assert all(one.sent[1] == {"last": True} and not one.signal and not one.code for one in ended)


def test_a_child_that_dies_is_told_from_one_that_raises_and_from_one_that_is_out_of_time() -> None:
    def work(job: str, send: forks.Send) -> None:
        send(began=job)
        if job == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "raises":
            raise ValueError(job)
        forks.allow(0.05)
        while job == "computes":
            pass
        time.sleep(60)  # takes no CPU time

    ended = {one.job: one for one in forks.each(["dies", "raises", "computes", "sleeps"], work, at_once=4)}
    assert all(one.sent == [{"began": job}] for job, one in ended.items())
    assert ended["dies"].signal == signal.SIGKILL
    assert not ended["dies"].ran_out_of_time
    assert ended["raises"].code == 1
    assert {job: one.raised for job, one in ended.items() if one.raised} == {"raises": "ValueError: raises"}
    assert ended["computes"].ran_out_of_time
    assert ended["sleeps"].ran_out_of_time


def test_a_child_cannot_take_all_memory() -> None:
    def work(_job: int, send: forks.Send) -> None:
        try:
            bytearray(2 * forks.MEMORY)
        except MemoryError:
            send(refused=True)

    (ended,) = forks.each([0], work, at_once=1)
    assert ended.sent == [{"refused": True}]


def test_a_caller_that_stops_leaves_no_child() -> None:
    def work(job: int, send: forks.Send) -> None:
        send(pid=os.getpid())
        if job:
            time.sleep(60)

    children = forks.each([0, 1, 2], work, at_once=3)
    next(children)
    children.close()  # type: ignore[attr-defined]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# -- records ---------------------------------------------------------------------------------------------------------

HEADER = {"AITER": "aiter 1.2.3", "tier": "smoke"}
BASELINE = Baseline("a case", "PASS", 0.25, {"aiter.small": frozenset({1, 2, 9})})
OUTCOME = Outcome("small.py:1:term:left", "killed", 1, "a case", "MISMATCH")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "record.jsonl"
    record = Record(path, HEADER)
    record.add_case(BASELINE)
    record.add_outcome(OUTCOME)
    record.close()
    return path


def test_a_record_is_read_back(kept: Path) -> None:
    record = Record(kept, HEADER)
    assert record.cases == {"a case": BASELINE}
    assert record.outcomes == {OUTCOME.mutant: OUTCOME}


def test_a_line_that_a_killed_run_left_unfinished_is_dropped_and_written_over(kept: Path) -> None:
    whole = kept.read_bytes()
    kept.write_bytes(whole + b'{"kind": "mutant", "mut')
    record = Record(kept, HEADER)
    record.add_outcome(other := Outcome("small.py:2:term:left", "survived", 1))
    record.close()
    assert kept.read_bytes().startswith(whole)
    assert json.loads(kept.read_bytes()[len(whole) :])["mutant"] == other.mutant
    assert Record(kept, HEADER).outcomes.keys() == {OUTCOME.mutant, other.mutant}


def test_a_record_of_another_analysis_is_refused(kept: Path) -> None:
    with pytest.raises(BadRecord, match=r"was made with AITER aiter 1\.2\.3, and this run has aiter 1\.2\.4"):
        Record(kept, {**HEADER, "AITER": "aiter 1.2.4"})
    with pytest.raises(BadRecord, match="was made with operators None, and this run has 2"):
        Record(kept, {**HEADER, "operators": "2"})


@pytest.mark.parametrize("content", ["no JSON\n", "[1]\n", '{"kind": "header"}\n', "no line"])
def test_what_is_no_record_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(BadRecord, match="is no record of a mutation analysis"):
        Record(path, HEADER)
    assert path.read_text() == content


def test_a_record_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="cannot record to"):
        Record(tmp_path / "absent" / "record.jsonl", HEADER)
    with pytest.raises(BadRecord, match="cannot record to"):
        Record(tmp_path, HEADER)


def test_a_record_that_can_grow_no_further_ends_the_analysis_in_one_sentence(kept: Path) -> None:
    whole, limits = kept.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    record = Record(kept, HEADER)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
    try:
        with pytest.raises(RecordEnded, match=rf"cannot record to {kept} any more: File too large"):
            record.add_outcome(OUTCOME)
        record.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Record(kept, HEADER).outcomes == {OUTCOME.mutant: OUTCOME}
    assert kept.read_bytes() == whole


# -- equivalent mutants ----------------------------------------------------------------------------------------------

TEXT = "import triton\n\n\n@triton.jit\ndef kernel(a, b):\n    x = a + b\n"
(MUTANT,) = [mutant for mutant in mutants("aiter.small", TEXT) if mutant.operator == "arithmetic"]
ENTRY = Equivalent("1.2.3", MUTANT.id, MUTANT.digest(TEXT), "b is always 0")


def matched(version: str, **changes: Any) -> dict[str, str]:
    entry = Equivalent(**{**vars(ENTRY), **changes})
    return equivalents.matched([entry], version, [MUTANT], {"aiter.small": TEXT})


def test_an_entry_counts_for_its_version_of_aiter_alone() -> None:
    assert matched("1.2.3") == {MUTANT.id: "b is always 0"}
    assert matched("1.2.4", digest="stale") == {}


def test_a_tree_that_does_not_know_its_version_takes_the_entries_that_fit() -> None:
    assert matched("unknown") == {MUTANT.id: "b is always 0"}
    assert matched("unknown", digest="0" * 12) == {}


def test_an_entry_that_fits_nothing_is_refused() -> None:
    with pytest.raises(BadEquivalent, match=r"AITER 1\.2\.3 has no such mutant"):
        matched("1.2.3", mutant="small.py:99:term:left")
    with pytest.raises(BadEquivalent, match=f"it has digest {ENTRY.digest}, not {'0' * 12}"):
        matched("1.2.3", digest="0" * 12)


def test_an_entry_for_kernels_that_are_not_mutated_is_left_alone() -> None:
    assert matched("1.2.3", mutant="elsewhere.py:99:term:left") == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[equivalent", "cannot read"),
        ("[other]", r"holds \[\[equivalent\]\] tables and nothing else"),
        ('[[equivalent]]\naiter = "1"', "entry 1: needs aiter, digest, mutant, reason, each a text"),
        ('[[equivalent]]\naiter = "1"\nmutant = "m"\ndigest = "d"\nreason = " "', "entry 1: needs "),
        ('[[equivalent]]\naiter = "1"\nmutant = "m"\ndigest = "d"\nreason = "r"\n' * 2, "names m of AITER 1 twice"),
    ],
)
def test_a_list_that_is_malformed_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "list.toml"
    path.write_text(content)
    with pytest.raises(BadEquivalent, match=said):
        equivalents.read(path)


def test_the_committed_list_can_be_read() -> None:
    for entry in equivalents.read(equivalents.COMMITTED):
        assert entry.mutant.count(":") >= 3
