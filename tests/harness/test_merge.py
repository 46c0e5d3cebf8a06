"""Merging records: what shards found together is what one run finds, and what does not belong together is refused."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.check import of_tier
from conformance.merge import lines, merged, write
from conformance.plan import Plan
from conformance.record import BadRecord, Writer, check_id, digest, read
from conformance.shard import Shard
from tests.harness.conftest import Done

CHECKS = [check for check in of_tier("smoke") if check.case.page_size == 16][:9]
ENVIRONMENT = {"target": "interpreter:gfx942", "torch": "2.13"}


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    """Writes the record of a run of a shard of `CHECKS`, all passed but what `of` says otherwise."""

    def record(
        name: str, shard: str | None = None, of: dict[int, dict[str, Any]] | None = None, cut: bool = False,
        seconds: float = 1.0, title: str = "tier smoke", environment: dict[str, str] = ENVIRONMENT, **run: Any,
    ) -> Path:  # fmt: skip
        plan = Plan(title, CHECKS, Shard.parse(shard) if shard else None)
        writer = Writer(tmp_path / name)
        aiter = {"version": "0.1.20", "commit": "abc", "origin": "git"}
        described = {
            "plan": plan.recorded(),
            "backend": "aiter",
            "options": ["--target", "interpreter"],
            "aiter": aiter,
        }
        writer.header(len(plan.checks), described | run, environment)
        results = []
        for check in plan.checks:
            relation = {"relation": check.relation.name} if check.relation else {}
            result = {"case": check.case.id, **relation, "digest": digest(check), "status": "PASS", "bound": 0.5}
            results.append(result | {"seconds": seconds} | (of or {}).get(CHECKS.index(check), {}))
        for result in results[: len(results) // 2] if cut else results:
            writer.case(**result)
        if not cut:
            writer.footer(Counter(result["status"] for result in results), seconds)
        writer.close()
        return tmp_path / name

    return record


RecordOf = Callable[..., Path]


def but_for_time(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(({k: v for k, v in r.items() if k != "seconds"} for r in results), key=check_id)


def test_shards_of_a_real_run_merge_to_what_one_run_finds(
    start: Callable[..., Done], command: Callable[..., Done], elsewhere: Path
) -> None:
    """Each shard on workers of its own, one of which is killed by a case; the command says what a run would have."""
    ids = [f"decode-noncausal-bf16-b1-q2-h2:1-d16-p{page}-kv9-packed-random" for page in range(1, 17)]
    every = [f"--case={check}" for case in ids for check in (case, f"repeated/{case}")]
    verdicts = {}
    runs = {"whole": [], "one": ["--shard=1/2"], "two": ["--shard=2/2"]}
    for name, words in runs.items():
        done = start("run", "--backend", "answers:by_page_size", "--target", "cpu", *every, *words, "-n", 2,
                     "--record", elsewhere / name)  # fmt: skip
        assert done.code == 1, done.printed
        verdicts[name] = next(line for line in done.out.splitlines() if line.startswith("NOT CONFORMANT"))
    done = command("merge", elsewhere / "one", elsewhere / "two", "-o", elsewhere / "both")
    assert done.code == 1, done.printed
    whole, both = read(elsewhere / "whole"), read(elsewhere / "both")
    assert both.complete
    without = ("reason", "seconds")
    found, wanted = ([{k: v for k, v in r.items() if k not in without} for r in x.cases] for x in (both, whole))
    assert sorted(found, key=check_id) == sorted(wanted, key=check_id)
    assert {name: both.header[name] for name in ("planned", "run", "environment")} == {
        name: whole.header[name] for name in ("planned", "run", "environment")
    }
    footers = [json.loads((elsewhere / name).read_text().splitlines()[-1]) for name in ("whole", "both")]
    assert footers[0]["counts"] == footers[1]["counts"]
    assert [part["shard"] for part in both.header["parts"]] == ["1/2", "2/2"]
    assert verdicts["whole"] == done.out.splitlines()[-1]
    again = command("compare", elsewhere / "whole", f"{elsewhere / 'one'},{elsewhere / 'two'}", "--strict")
    assert again.code == 0, again.printed
    assert again.out.splitlines()[-1] == "EQUAL: of 32 checks in common: all as they were."


def test_a_merged_record_reads_as_that_of_one_run(record: RecordOf, tmp_path: Path) -> None:
    paths = [record("one", "1/3", seconds=2.0), record("two", "2/3", seconds=5.0), record("three", "3/3")]
    together = merged(paths)
    write(together, tmp_path / "merged")
    back, whole = read(tmp_path / "merged"), read(record("whole"))
    assert back.complete
    assert but_for_time(back.cases) == but_for_time(whole.cases)
    assert (back.header["planned"], back.run, back.header["environment"]) == (9, whole.run, ENVIRONMENT)
    assert back.seconds == 5.0, "of the longest run"
    assert [(part["shard"], part["seconds"]) for part in back.header["parts"]] == [
        ("1/3", 2.0), ("2/3", 5.0), ("3/3", 1.0),
    ]  # fmt: skip
    assert lines(back) == lines(together)
    assert lines(back)[-1] == "CONFORMANT."


def test_merged_records_merge(record: RecordOf, tmp_path: Path) -> None:
    write(merged([record("one", "1/3"), record("two", "2/3")]), tmp_path / "some")
    assert not read(tmp_path / "some").complete
    every = merged([tmp_path / "some", record("three", "3/3")])
    assert every.complete
    assert [part["shard"] for part in every.header["parts"]] == ["1/3", "2/3", "3/3"]


def test_a_missing_shard_leaves_an_incomplete_record(
    record: RecordOf, command: Callable[..., Done], tmp_path: Path
) -> None:
    some = len(Plan("", CHECKS, Shard(2, 3)).checks)
    done = command("merge", record("two", "2/3"), "-o", tmp_path / "merged")
    assert done.code == 3, done.printed
    assert f"INCOMPLETE: {9 - some} of 9 checks have no result; no record of shard 1/3, 3/3." in done.out
    assert len(read(tmp_path / "merged").cases) == some
    assert not read(tmp_path / "merged").complete
    assert "footer" not in (tmp_path / "merged").read_text()


def test_a_record_that_was_cut_short_gives_what_it_has(
    record: RecordOf, command: Callable[..., Done], tmp_path: Path
) -> None:
    cut = record("two", "2/2", cut=True)
    with cut.open("a") as file:
        file.write('{"kind": "case", "ca')
    had = len(read(cut).cases)
    assert had > 0
    done = command("merge", record("one", "1/2"), cut, "-o", tmp_path / "merged")
    assert done.code == 3, done.printed
    assert "INCOMPLETE" in done.out
    assert "no record of shard" not in done.out
    assert len(read(tmp_path / "merged").cases) == len(Plan("", CHECKS, Shard(1, 2)).checks) + had
    again = merged([record("three", "1/2"), cut, record("four", "2/2")])
    assert again.complete, "the shard was run once more"
    assert len(again.cases) == 9


def test_a_run_in_which_everything_was_declined_proves_nothing(
    record: RecordOf, command: Callable[..., Done], tmp_path: Path
) -> None:
    declined = {check: {"status": "UNSUPPORTED"} for check in range(9)}
    done = command("merge", record("one", "1/2", declined), record("two", "2/2", declined), "-o", tmp_path / "merged")
    assert done.code == 3, done.printed
    assert "NOTHING RAN." in done.out
    assert read(tmp_path / "merged").complete


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "backend": ({"backend": "torch"}, "their backend is aiter and torch"),
    "AITER": ({"aiter": {"version": "0.1.20", "commit": "def"}}, "their AITER is 0.1.20 abc and 0.1.20 def"),
    "no AITER": ({"aiter": {}}, "their AITER is 0.1.20 abc and none"),
    "target": ({"environment": {"target": "gpu:gfx942"}}, "their target is interpreter:gfx942 and gpu:gfx942"),
    "asked target": ({"environment": {}, "options": ["--target", "gpu"]}, "is interpreter:gfx942 and gpu"),
    "plan": ({"title": "tier core"}, "their plan is tier smoke and tier core"),
    "digests": ({"plan": {"title": "tier smoke", "checks": 9, "digest": "0"}}, "their version of the checks is"),
    "no plan": ({"plan": None}, "two does not say what plan its run was a part of"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_of_one_run_is_refused(
    record: RecordOf, command: Callable[..., Done], tmp_path: Path, what: str
) -> None:
    changed, sentence = REFUSED[what]
    done = command("merge", record("one", "1/2"), record("two", "2/2", **changed), "-o", tmp_path / "merged")
    assert done.code == 2, done.printed
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1
    assert not done.out
    assert not (tmp_path / "merged").exists()


def test_results_of_one_check_must_agree_but_for_time(record: RecordOf) -> None:
    paths = [record("one", seconds=1.0), record("two", seconds=2.0)]
    assert len(merged(paths).cases) == 9
    for number, differs in enumerate(({"status": "MISMATCH"}, {"bound": 0.6})):
        with pytest.raises(
            BadRecord, match=rf"one and .*different{number} have different results of {re.escape(CHECKS[3].id)}"
        ):
            merged([paths[0], record(f"different{number}", of={3: differs})])


def test_nothing_is_written_over(record: RecordOf, command: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "merged").write_text("precious")
    done = command("merge", record("one"), "-o", tmp_path / "merged")
    assert done.code == 2, done.printed
    assert "merged exists and is kept" in done.err
    assert (tmp_path / "merged").read_text() == "precious"
