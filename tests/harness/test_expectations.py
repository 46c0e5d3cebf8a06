"""Declared gaps: how a list is read, which entry applies to which check, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version

from conformance import expectations
from conformance.aiter_source import AiterSource
from conformance.backends import Backend
from conformance.backends import torch as torch_backend
from conformance.expectations import BadExpectations, Expectation
from conformance.status import Status
from conformance.system import System

A, B, C = "decode-causal-p48-kv513", "decode-causal-p48-kv513-w3:7", "repeated/decode-causal-p16-kv9"

GOOD: dict[str, object] = {
    "match": "decode-causal-*",
    "status": "ERROR",
    "since": "0.1.15",
    "until": "open",
    "arch": "any",
    "reason": "The kernel has no such page",
    "issue": "https://example.org/issues/1",
}


def toml(*entries: dict[str, object]) -> str:
    """A list of expectations; texts, lists of them and numbers are written in TOML as Python shows them."""
    tables = ("\n".join(f"{field} = {value!r}" for field, value in entry.items()) for entry in entries)
    return "\n".join(f"[[expectation]]\n{table}\n" for table in tables)


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., list[Expectation]]:
    """The entries of a list that holds GOOD with these fields changed, one entry for each."""

    def listed(*changes: dict[str, object]) -> list[Expectation]:
        path = tmp_path / "mine.toml"
        path.write_text(toml(*(GOOD | change for change in changes)))
        return expectations.read(path, "mine.toml")

    return listed


def system(version: str = "0.1.16", target: str = "interpreter:gfx942") -> System:
    source = AiterSource(Path("/nowhere"), "installed", version, "") if version else None
    return System(Backend("planted", torch_backend.attend), target, source, (), defaulted=False)


def applied(entries: list[Expectation], checks: Sequence[str] = (A, B, C), **where: str) -> dict[str, str]:
    """The place of the entry that applies, by check."""
    return {
        check: entry.place for check, entry in expectations.applying(entries, system(**where), checks).by_check.items()
    }


# -- reading a list ----------------------------------------------------------------------------------------------------


def test_an_entry_is_read_as_it_is_written(listed: Callable[..., list[Expectation]]) -> None:
    one, two = listed({}, {"match": ["a*", "!*b"], "until": "0.1.16.post3", "arch": ["gfx942", "sm_*"]})
    assert (one.match, one.status, one.arch) == (("decode-causal-*",), Status.ERROR, ("any",))
    assert (one.since, one.until) == (Version("0.1.15"), None)
    assert (two.match, two.arch, two.until) == (("a*", "!*b"), ("gfx942", "sm_*"), Version("0.1.16.post3"))
    assert (one.place, two.place) == ("mine.toml, entry 1", "mine.toml, entry 2")
    assert one.because == "The kernel has no such page (https://example.org/issues/1)"


MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "unknown field": ({"matches": "x"}, "no field is called 'matches': there are match, status, since"),
    "empty match": ({"match": ""}, "match is empty"),
    "no match": ({"match": []}, "match is empty"),
    "one of two empty": ({"match": ["decode-*", " "]}, "match is empty"),
    "nothing taken out": ({"match": ["decode-*", "!"]}, "match is empty"),
    "none but taken out": ({"match": ["!decode-*"]}, "match takes checks out, and has none in"),
    "match of numbers": ({"match": [1]}, "match must be a text, not 1"),
    "PASS": ({"status": "PASS"}, "status 'PASS' cannot be expected: choose one of MISMATCH, NONFINITE"),
    "UNSUPPORTED": ({"status": "UNSUPPORTED"}, "status 'UNSUPPORTED' cannot be expected"),
    "NOT RUN": ({"status": "NOT RUN"}, "status 'NOT RUN' cannot be expected"),
    "unknown status": ({"status": "Error"}, "status 'Error' cannot be expected"),
    "status empty": ({"status": ""}, "status is empty"),
    "since a number": ({"since": 0}, "since must be a text, not 0"),
    "since no version": ({"since": "v0.1.x"}, "since 'v0.1.x' is neither a version nor '0'"),
    "since open": ({"since": "open"}, "since 'open' is neither a version nor '0'"),
    "until no version": ({"until": "never"}, "until 'never' is neither a version nor 'open'"),
    "until since": ({"until": "0.1.15"}, "until 0.1.15 is not later than since 0.1.15"),
    "until before since": ({"until": "0.1.15rc1"}, "until 0.1.15rc1 is not later than since 0.1.15"),
    "no arch": ({"arch": []}, "arch is empty"),
    "empty reason": ({"reason": " "}, "reason is empty"),
    "reason no text": ({"reason": ["why", "not"]}, "reason must be a text, not ['why', 'not']"),
    "issue": ({"issue": "ask Bob"}, "issue 'ask Bob' is neither a URL nor a place like docs/findings.md#limits"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_the_entry(listed: Callable[..., list[Expectation]], mistake: str) -> None:
    change, sentence = MISTAKES[mistake]
    with pytest.raises(BadExpectations) as refused:
        listed({}, change)
    assert str(refused.value).startswith("mine.toml, entry 2: ")
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", GOOD)
def test_every_field_is_mandatory(tmp_path: Path, field: str) -> None:
    (tmp_path / "mine.toml").write_text(toml({name: value for name, value in GOOD.items() if name != field}))
    with pytest.raises(BadExpectations, match=rf"^mine\.toml, entry 1: lacks {field}$"):
        expectations.read(tmp_path / "mine.toml", "mine.toml")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[[expectation", "cannot read expectations from mine.toml: "),
        (b"\xff\xfe", "cannot read expectations from mine.toml: "),
        (b"[expectation]\nmatch = 'x'", "mine.toml holds [[expectation]] tables and nothing else"),
        (b"expectation = [1]", "mine.toml holds [[expectation]] tables and nothing else"),
        (b"[[expected]]\nmatch = 'x'", "mine.toml holds [[expectation]] tables and nothing else"),
        (None, "cannot read expectations from mine.toml: "),
    ],
)
def test_a_file_that_is_no_list_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(BadExpectations) as refused:
        expectations.read(tmp_path / "mine.toml", "mine.toml")
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_an_empty_list_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("# nothing is known\n")
    assert expectations.read(tmp_path / "mine.toml", "mine.toml") == []


# -- which entry applies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "matched"),
    [
        ("decode-causal-*", {A, B}),
        ("*decode-causal-*", {A, B, C}),
        ("repeated/*", {C}),
        ("decode-causal", set()),
        ("DECODE-CAUSAL-*", set()),
        (["decode-causal-*", "!*-w*:*"], {A}),
        (["!*-w*:*", "*-kv513*", "*-kv9"], {A, C}),
        ([A, C], {A, C}),
        ("*-p[14]*", {A, B, C}),
    ],
)
def test_globs_are_of_whole_ids_and_may_take_out(
    listed: Callable[..., list[Expectation]], match: str | list[str], matched: set[str]
) -> None:
    assert applied(listed({"match": match})).keys() == matched


@pytest.mark.parametrize(
    ("arch", "target", "applies"),
    [
        ("any", "interpreter:gfx942", True),
        ("any", "cpu", True),
        ("gfx942", "interpreter:gfx942", True),
        ("gfx942", "interpreter", True),
        ("gfx942", "interpreter:gfx950", False),
        (["gfx950", "gfx942"], "interpreter:gfx950", True),
        ("gfx9*", "interpreter:gfx950", True),
        ("gfx9", "interpreter:gfx950", False),
        ("interpreter:*", "interpreter:gfx950", True),
        ("gpu:*", "interpreter:gfx950", False),
        ("sm_*", "cpu", False),
    ],
)
def test_an_arch_is_that_of_the_target_or_its_name(
    listed: Callable[..., list[Expectation]], arch: str | list[str], target: str, applies: bool
) -> None:
    assert bool(applied(listed({"arch": arch}), target=target)) is applies


def test_an_arch_is_that_of_the_gpu_which_is_there(
    listed: Callable[..., list[Expectation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    entries = listed({"arch": "gpu:gfx950"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert applied(entries, target="gpu") == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    for arch, applies in (("gfx950:sramecc+:xnack-", True), ("gfx942", False)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, arch=arch: SimpleNamespace(gcnArchName=arch))
        assert bool(applied(entries, target="gpu")) is applies


@pytest.mark.parametrize(
    ("since", "until", "version", "applies"),
    [
        ("0", "open", "0.0.1", True),
        ("0", "open", "unknown", True),
        ("0", "open", "", True),
        ("0.1.16", "open", "0.1.16", True),
        ("0.1.16", "open", "0.1.15.post3", False),
        ("0", "0.1.16", "0.1.15.post3", True),
        ("0", "0.1.16", "0.1.16rc1", True),
        ("0", "0.1.16", "0.1.16", False),
        ("0.1.16", "0.1.16.post3", "0.1.16.post2", True),
        ("0.1.16", "0.1.16.post3", "0.1.16.post3", False),
        ("0.1.16", "0.1.16.post3", "0.1.17", False),
    ],
)
def test_versions_are_a_half_open_range(
    listed: Callable[..., list[Expectation]], since: str, until: str, version: str, applies: bool
) -> None:
    assert bool(applied(listed({"since": since, "until": until}), version=version)) is applies


def test_what_nobody_can_tell_is_said_and_not_applied(listed: Callable[..., list[Expectation]]) -> None:
    entries = listed({"until": "0.1.16"}, {"match": "repeated/*"}, {"match": "nothing"}, {"arch": "sm_90"})
    found = expectations.applying(entries, system("unknown"), [A, B, C])
    assert found.by_check == {}
    assert found.notes == (
        "not expected, since nobody can tell whether AITER unknown (installed) is among the versions of the gap: "
        "mine.toml, entries 1 and 2",
    )
    (note,) = expectations.applying(entries[:1], system(""), [A]).notes
    assert "whether planted, which has no AITER, is among the versions of the gap: mine.toml, entry 1" in note


def test_what_applies_is_said(listed: Callable[..., list[Expectation]]) -> None:
    found = expectations.applying(listed({}, {"match": "repeated/*"}), system(), [A, B, C])
    assert found.notes == ("3 gaps expected, by mine.toml, entries 1 and 2",)
    assert found.of(C) is not None
    assert found.of("another") is None
    assert expectations.applying([], system(), [A]).notes == ()


def test_two_entries_for_one_check_are_refused(listed: Callable[..., list[Expectation]]) -> None:
    with pytest.raises(BadExpectations) as refused:
        applied(listed({}, {"match": "*-w*", "status": "CRASH"}))
    assert str(refused.value) == f"mine.toml, entry 1, and mine.toml, entry 2, both apply to {B}"


@pytest.mark.parametrize("other", [{"arch": "gfx950"}, {"since": "0.1.17"}, {"match": "repeated/*"}])
def test_two_entries_that_never_meet_are_no_mistake(
    listed: Callable[..., list[Expectation]], other: dict[str, object]
) -> None:
    assert applied(listed({}, other)).keys() >= {A, B}


# -- entries that do nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "idle"),
    [
        ("nothing-*", "'nothing-*' matches no check"),
        (["decode-causal-*", "graph.unheard-of/*"], "'graph.unheard-of/*' matches no check"),
        (["decode-causal-*", "!decode-noncausal-*"], "'!decode-noncausal-*' takes out no check that another"),
    ],
)
def test_a_glob_that_does_nothing_is_refused(
    listed: Callable[..., list[Expectation]], match: str | list[str], idle: str
) -> None:
    with pytest.raises(BadExpectations) as refused:
        expectations.refuse_idle(listed({}, {"match": match}), [A, B])
    assert str(refused.value).startswith(f"mine.toml, entry 2: {idle}")


@pytest.mark.parametrize(
    "match",
    [
        A,  # of this run alone
        "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-pages.huge-packed-needle",  # of full, not of smoke
        "batch.permuted/*",  # drawn
        ["decode-*", "!decode-noncausal-*"],
    ],
)
def test_a_glob_that_does_something_in_any_tier_is_none(
    listed: Callable[..., list[Expectation]], match: str | list[str]
) -> None:
    entries = listed({"match": match})
    expectations.refuse_idle(entries, [A])
    assert entries[0].idle_globs([]), "the tiers were looked at"


def test_the_ids_of_every_tier_are_those_of_all_three() -> None:
    ids = expectations.of_every_tier()
    assert len(set(ids)) == len(ids)
    assert any(check.startswith("repeated/") for check in ids)
    assert "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-pages.huge-packed-needle" in ids


# -- which lists ------------------------------------------------------------------------------------------------------


def test_lists_come_beside_the_committed_one_or_instead_of_it(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.toml")
    Path(path).write_text(toml(GOOD))
    committed = expectations.committed("aiter")
    beside = expectations.asked_for("aiter", [path, path], with_committed=True)
    assert [entry.place for entry in beside] == [*(entry.place for entry in committed), f"{path}, entry 1"]
    instead = expectations.asked_for("aiter", [path], with_committed=False)
    assert [entry.place for entry in instead] == [f"{path}, entry 1"]
