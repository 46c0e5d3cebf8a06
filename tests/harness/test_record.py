"""Records: written line by line, never over another one, and readable whatever became of the run."""

import json
import lzma
import resource
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from conformance import inputs, relations
from conformance.check import Check, of_tier
from conformance.record import FORMAT, BadRecord, Writer, check_id, digest, read
from conformance.relations import Relation
from conformance.status import Status
from reference import attention as oracle

HEADER = {"kind": "header", "format": FORMAT, "started": "now", "planned": 2, "run": {}, "environment": {}}
CASES = [{"kind": "case", "case": name, "status": "PASS"} for name in "ab"]
FOOTER = {"kind": "footer", "counts": {"PASS": 2}, "seconds": 1.0}


def written(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.jsonl"


def test_a_record_that_xz_made_small_is_read_as_it_was(path: Path) -> None:
    plain = written(path, HEADER, *CASES, FOOTER)
    small = path.with_name("record.jsonl.xz")
    small.write_bytes(lzma.compress(plain.read_bytes()))
    assert read(small) == read(plain)
    for broken in (small.read_bytes()[:-20], b"no xz", b""):
        small.write_bytes(broken)
        with pytest.raises(BadRecord, match=r"cannot read .*xz|is not a record"):
            read(small)


def test_what_is_written_is_read(path: Path) -> None:
    writer = Writer(path)
    writer.header(2, {"title": "tier smoke"}, {"torch": "2"})
    writer.case(case="a", status="PASS", bound=0.25)
    writer.case(case="b", status="NOT RUN", reason="umlaut ü, and \n a newline")
    writer.footer(Counter({"PASS": 1, "NOT RUN": 1}), 2.04)
    record = read(path)
    assert record.complete
    assert record.header["planned"] == 2
    assert (record.header["run"], record.header["environment"]) == ({"title": "tier smoke"}, {"torch": "2"})
    assert [case["case"] for case in record.cases] == ["a", "b"]
    assert record.cases[1]["reason"] == "umlaut ü, and \n a newline"
    assert record.counts == {Status.PASS: 1, Status.NOT_RUN: 1}
    writer.close()


def test_a_line_is_on_disk_as_soon_as_it_is_written(path: Path) -> None:
    writer = Writer(path)
    writer.header(2, {}, {})
    for count in (1, 2):
        writer.case(case=str(count), status="PASS")
        assert len(read(path).cases) == count
        assert not read(path).complete
    writer.close()


def test_a_record_is_never_written_over(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(BadRecord, match="exists and is kept: delete it, or record somewhere else"):
        Writer(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/record.jsonl", "file/record.jsonl", "x" * 300, "file", "."])
def test_a_record_that_cannot_be_written_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRecord) as refused:
        Writer(tmp_path / name)
    assert "\n" not in str(refused.value)


# -- records that were cut short, and files that are none -----------------------------------------------------------


def test_a_record_without_footer_is_incomplete(path: Path) -> None:
    record = read(written(path, HEADER, *CASES))
    assert not record.complete
    assert len(record.cases) == 2


@pytest.mark.parametrize("cut", [1, 5, 20, 40])
def test_a_record_cut_short_within_a_line_keeps_what_it_has(path: Path, cut: int) -> None:
    text = written(path, HEADER, *CASES).read_text()
    path.write_text(text[:-cut])
    record = read(path)
    assert [case["case"] for case in record.cases] == (["a", "b"] if cut == 1 else ["a"])
    assert not record.complete


def test_a_footer_does_not_complete_a_record_that_lacks_cases(path: Path) -> None:
    assert not read(written(path, HEADER, CASES[0], FOOTER)).complete
    assert read(written(path, HEADER, *CASES, FOOTER)).complete


def test_a_case_and_a_relation_on_it_are_two_results(path: Path) -> None:
    related = [{**CASES[0], "relation": name} for name in ("repeated", "pages.renamed")]
    header = {**HEADER, "planned": 3}
    footer = {**FOOTER, "counts": {"PASS": 3}}
    assert read(written(path, header, CASES[0], *related, footer)).complete
    assert not read(written(path, header, CASES[0], related[0], related[0], footer)).complete
    assert [check_id(case) for case in read(path).cases] == ["a", "repeated/a", "repeated/a"]


def test_a_case_reported_twice_does_not_stand_for_another(path: Path) -> None:
    assert not read(written(path, HEADER, CASES[0], CASES[0], FOOTER)).complete
    three = {**FOOTER, "counts": {"PASS": 3}}
    assert not read(written(path, HEADER, *CASES, CASES[0], three)).complete, "nor comes beside all that were planned"


@pytest.mark.parametrize(
    "counts", [{}, {"PASS": 1}, {"PASS": 1, "MISMATCH": 1}, {"PASS": 2, "ERROR": 1}, {"PASS": [2]}]
)
def test_a_footer_that_contradicts_the_lines_completes_nothing(path: Path, counts: dict) -> None:
    assert not read(written(path, HEADER, *CASES, {**FOOTER, "counts": counts})).complete


def test_a_record_that_cannot_grow_says_so_once_and_keeps_what_it_has(path: Path) -> None:
    writer, limits = Writer(path), resource.getrlimit(resource.RLIMIT_FSIZE)
    writer.header(2, {}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 60, limits[1]))
    try:
        writer.case(case="a", status="PASS")
        assert not writer.failed
        writer.case(case="b", status="PASS")
        assert writer.failed == "File too large"
        writer.case(case="c", status="PASS")
        writer.footer(Counter({"PASS": 3}), 1.0)
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [case["case"] for case in read(path).cases] == ["a"]
    assert not read(path).complete


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not a record: its first line is no header"),
        ("\n\n", "..."),
        ("garbage", "is not a record"),
        ("garbage\nmore", "line 1: not JSON"),
        ("[1, 2]\n", "is not a record: its first line is no header"),
        ("null\n", "is not a record"),
        ('{"kind": "case"}\n', "is not a record: its first line is no header"),
        ('{"header": 1}\n', "is not a record: its first line is no header"),
        ('{"kind": "header", "format": 99, "planned": 1}\n', f"has format 99; this suite reads {FORMAT}"),
        ('{"kind": "header", "planned": 1}\n', f"has format None; this suite reads {FORMAT}"),
        (f'{{"kind": "header", "format": {FORMAT}}}\n', "..."),
        (json.dumps(HEADER | {"run": None}) + "\n", "its header does not say what was run, and where"),
        (json.dumps({**HEADER, "environment": "mine"}) + "\n", "its header does not say what was run, and where"),
        (json.dumps(HEADER) + "\n{}\n", "..."),
        (json.dumps(HEADER) + '\n{"kind": "case"}\n', "..."),
        (json.dumps(HEADER) + '\n{"kind": "case", "case": "a", "status": "SPLENDID"}\n', "..."),
        (json.dumps(HEADER) + '\n{"kind": "case", "case": "a", "status": ["PASS"]}\n', "line 2: neither a case with"),
        (json.dumps(HEADER) + '\n{"kind": "case", "case": "a", "status": "PASS", "relation": {}}\n', "line 2: neither"),
        (
            json.dumps(HEADER) + '\n{"kind": "footer"}\n',
            "line 2: neither a case with a status nor a footer with counts",
        ),
        (
            json.dumps(HEADER) + "\n" + json.dumps(FOOTER) + "\n" + json.dumps(CASES[0]) + "\n",
            "line 3: its footer is not",
        ),
        (json.dumps(HEADER) + "\nnot json\n" + json.dumps(CASES[0]) + "\n", "line 2: not JSON"),
    ],
    ids=repr,
)
def test_a_file_that_is_no_record_is_one_sentence(path: Path, text: str, sentence: str) -> None:
    path.write_text(text)
    with pytest.raises(BadRecord) as refused:
        assert read(path).counts is not None
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sentence == "..." or sentence in str(refused.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80" * 100, bytes(range(256))], ids=["utf-16", "80", "all"])
def test_bytes_that_are_no_text_are_one_sentence(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BadRecord):
        read(path)


def test_a_record_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(BadRecord, match="cannot read"):
            read(path)


# -- the key of a result --------------------------------------------------------------------------------------------


def test_a_key_changes_with_case_inputs_and_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    check = of_tier("smoke")[0]
    keys = {digest(check), digest(Check(replace(check.case, causal=not check.case.causal)))}
    monkeypatch.setattr(inputs, "VERSION", inputs.VERSION + 1)
    keys.add(digest(check))
    monkeypatch.setattr(oracle, "VERSION", oracle.VERSION + 1)
    keys.add(digest(check))
    assert len(keys) == 4


def test_a_relation_s_key_changes_with_the_relations_and_a_case_s_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    related = next(check for check in of_tier("smoke") if isinstance(check.relation, Relation))
    case = Check(related.case)
    keys = {digest(related), digest(case)}
    monkeypatch.setattr(relations, "VERSION", relations.VERSION + 1)
    keys |= {digest(related), digest(case)}
    assert len(keys) == 3


def test_keys_of_a_tier_are_distinct() -> None:
    smoke = of_tier("smoke")
    assert len({digest(check) for check in smoke}) == len(smoke)
