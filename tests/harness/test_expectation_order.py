"""Where an AITER stands among versions: releases, development versions, branches, and commits without a version."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from conformance.aiter_source import AiterSource
from conformance.expectations.order import reached
from tests.harness.small_aiter import Checkout, found


def installed(version: str) -> AiterSource:
    return AiterSource(Path("/nowhere"), "installed", version, "abc1234")


@pytest.mark.parametrize(
    ("version", "at_or_after", "before", "cannot_tell"),
    [
        ("0.1.16", ["0", "0.1.15.post3", "0.1.16rc1", "0.1.16"], ["0.1.16.post1", "0.1.17"], []),
        ("0.1.16.post6", ["0.1.16", "0.1.16.post6"], ["0.1.17rc0", "0.1.17"], []),
        ("0.1.17rc0", ["0.1.16.post6", "0.1.17rc0"], ["0.1.17"], []),
        ("0.1.16+rocm7.0", ["0.1.16"], ["0.1.16.post1"], []),
        # Of the way to the next release, and whether a fix that made a post release is on it nobody can tell.
        ("0.1.16.dev3", ["0.1.15", "0.1.14.post2"], ["0.1.16rc1", "0.1.16", "0.1.16.post1"], ["0.1.15.post1"]),
        ("0.1.16.dev3+ge4048607a5", ["0.1.16.dev3", "0.1.15"], ["0.1.16.dev4", "0.1.16"], ["0.1.15.post2"]),
        ("0.1.21.dev46+ge4048607a", ["0.1.20", "0.1.19.post2"], ["0.1.21"], ["0.1.20.post1"]),
        ("0.1.14rc1.dev915+ge4048607a5", ["0.1.14rc0", "0.1.13"], ["0.1.14rc1", "0.1.14"], []),
        ("0.1.14.dev915+ge4048607a5", ["0.1.13"], ["0.1.14"], ["0.1.13.post1"]),
        ("0.1.20.post2.dev1+gabc", ["0.1.19.post1", "0.1.20", "0.1.20.post1"], ["0.1.20.post2", "0.1.21"], []),
        ("unknown", ["0"], [], ["0.0.1", "0.1.16", "99"]),
    ],
)
def test_without_a_repository_a_version_says_where_it_stands(
    version: str, at_or_after: list[str], before: list[str], cannot_tell: list[str]
) -> None:
    for expected, boundaries in ((True, at_or_after), (False, before), (None, cannot_tell)):
        for boundary in boundaries:
            assert reached(installed(version), Version(boundary)) is expected, boundary


def test_a_backend_without_aiter_has_reached_the_beginning_alone() -> None:
    assert reached(None, Version("0")) is True
    assert reached(None, Version("0.1.16")) is None


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    r"""Releases on main, and one with a post release on a branch of its own.

    bare -- v0.1.15 -- early -- v0.1.16 -- later -- v0.1.18 -- latest (main)         lone (of another root)
                                      \-- v0.1.16.post1 -- patched (release)
    """
    monkeypatch.setenv("CONFORMANCE_CACHE", str(tmp_path / "cache"))
    checkout = Checkout(tmp_path / "checkout")
    for name, tags in (("bare", ()), ("15", ("v0.1.15",)), ("early", ()), ("16", ("v0.1.16", "v0.1.16-rc0"))):
        checkout.commit(name, *tags)
        checkout.git("branch", name)
    checkout.git("checkout", "--quiet", "-b", "release")
    checkout.commit("post", "v0.1.16.post1")
    checkout.commit("patched")
    checkout.git("checkout", "--quiet", "main")
    checkout.commit("later")
    checkout.git("branch", "later")
    checkout.commit("18", "v0.1.18")
    checkout.commit("latest")
    checkout.git("checkout", "--quiet", "--orphan", "lone")
    checkout.commit("lone")
    checkout.git("checkout", "--quiet", "main")
    return checkout


@pytest.mark.parametrize(
    ("ref", "version", "at_or_after", "before", "cannot_tell"),
    [
        ("bare", "unknown", ["0"], ["0.1.15", "0.1.16", "0.1.17"], ["0.1.14"]),
        ("v0.1.15", "0.1.15", ["0.1.15"], ["0.1.15.post1", "0.1.16"], []),
        ("early", "0.1.16.dev1", ["0.1.14", "0.1.15"], ["0.1.16", "0.1.16.post1", "0.1.18"], ["0.1.15.post1"]),
        ("v0.1.16", "0.1.16", ["0.1.16"], ["0.1.16.post1", "0.1.18"], []),
        # As text, 0.1.17.dev1 is later than 0.1.16.post1; it is on another branch.
        ("later", "0.1.17.dev1", ["0.1.16"], ["0.1.18"], ["0.1.16.post1"]),
        ("v0.1.16.post1", "0.1.16.post1", ["0.1.16", "0.1.16.post1"], ["0.1.17", "0.1.18"], []),
        # As text, 0.1.16.post2.dev1 is earlier than 0.1.18; what that release brought may have been picked to here.
        ("release", "0.1.16.post2.dev1", ["0.1.16.post1"], ["0.1.16.post2"], ["0.1.18"]),
        ("v0.1.18", "0.1.18", ["0.1.16.post1", "0.1.18"], ["0.1.19"], []),
        ("main", "0.1.19.dev1", ["0.1.16.post1", "0.1.17", "0.1.18"], ["0.1.19", "0.1.20"], ["0.1.18.post1"]),
        ("lone", "unknown", ["0"], [], ["0.1.15", "0.1.18", "0.1.99"]),
    ],
)
def test_in_a_repository_ancestry_says_more_than_a_version(
    history: Checkout, ref: str, version: str, at_or_after: list[str], before: list[str], cannot_tell: list[str]
) -> None:
    source = found(f"{history.path}@{ref}")
    assert source.version.partition("+")[0] == version
    for expected, boundaries in ((True, at_or_after), (False, before), (None, cannot_tell)):
        for boundary in boundaries:
            assert reached(source, Version(boundary)) is expected, boundary


def test_tags_that_contradict_each_other_tell_nothing(history: Checkout) -> None:
    history.git("tag", "v0.1.14", "main")
    later = found(f"{history.path}@later")
    assert [reached(later, Version(v)) for v in ("0.1.13", "0.1.15", "0.1.18")] == [True, None, False]


def test_a_bare_commit_stands_where_its_branch_does(history: Checkout) -> None:
    source = found(f"{history.path}@{history.git('rev-parse', 'later')}")
    assert [reached(source, Version(v)) for v in ("0.1.16", "0.1.16.post1", "0.1.18")] == [True, None, False]


def test_a_working_tree_stands_after_the_commit_it_is_of(history: Checkout) -> None:
    history.git("checkout", "--quiet", "v0.1.16")
    assert reached(found(history.path), Version("0.1.16")) is True
    (history.path / "aiter" / "ops" / "__init__.py").write_text("changed = True\n")
    changed = found(history.path)
    assert changed.version.endswith(".dirty")
    assert [reached(changed, Version(v)) for v in ("0.1.15", "0.1.16", "0.1.18")] == [True, True, False]
    assert reached(changed, Version("0.1.16.post1")) is False, "that contains the commit"


def test_a_bare_repository_stands_where_its_head_does(history: Checkout, tmp_path: Path) -> None:
    source = found(history.bare(tmp_path / "bare.git"))
    assert [reached(source, Version(v)) for v in ("0.1.18", "0.1.18.post1", "0.1.19")] == [True, None, False]


def test_an_export_that_is_carried_elsewhere_stands_where_its_version_says(history: Checkout) -> None:
    root = found(f"{history.path}@later").root
    carried = found(root)
    assert carried.repository is None
    assert [reached(carried, Version(v)) for v in ("0.1.16", "0.1.16.post1", "0.1.17")] == [True, None, False]
