"""The list of declared gaps that comes with the suite: true to the tiers, and no cover for wrong numbers."""

from pathlib import Path

import pytest
from packaging.version import Version

from conformance import expectations
from conformance.status import Status
from tests.harness.test_expectations import system

RELEASES = ("0.1.9.post1", "0.1.13", "0.1.15", "0.1.16", "0.1.16.post3", "0.1.17", "0.1.18", "0.1.19.post1", "0.1.20")


LISTS = ("aiter", "aiter_mha", "aiter_mha_v3_kvcache")


@pytest.mark.parametrize("backend", LISTS)
def test_a_committed_list_has_no_entry_that_does_nothing(backend: str) -> None:
    entries = expectations.committed(backend)
    assert entries
    expectations.refuse_idle(entries, [])


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("target", ["interpreter:gfx942", "interpreter:gfx950"])
def test_no_two_committed_entries_meet(version: str, target: str) -> None:
    ids = expectations.of_every_tier()
    found = expectations.applying(expectations.committed("aiter"), system(version, target), ids)
    uncaptured = {check for check, entry in found.by_check.items() if "captured" in entry.reason}
    assert bool(uncaptured) is (Version(version) < Version("0.1.16"))
    assert all("/decode-noncausal-" in check for check in uncaptured), "unified attention was always capturable"
    assert bool(set(found.by_check) - uncaptured) is (Version(version) >= Version("0.1.16"))


def test_the_committed_list_expects_no_wrong_numbers() -> None:
    allowed = {Status.ERROR, Status.CRASH}
    assert {entry.status for backend in LISTS for entry in expectations.committed(backend)} <= allowed


def test_issues_of_the_committed_list_are_there() -> None:
    root = Path(__file__).parents[2]
    for entry in (entry for backend in LISTS for entry in expectations.committed(backend)):
        if entry.issue.startswith("docs/"):
            file, _, anchor = entry.issue.partition("#")
            headings = [line.lstrip("# ") for line in (root / file).read_text().splitlines() if line.startswith("#")]
            assert anchor in {heading.lower().replace(" ", "-").replace("'", "") for heading in headings}, entry.place


def test_a_backend_without_a_list_has_none() -> None:
    for name in ("torch", "planted", "my.module:attend"):
        assert expectations.committed(name) == []
