"""Shards of a tier: which checks each takes, and what a run of one says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.check import of_tier
from conformance.plan import Plan, joint
from conformance.record import digest, read
from conformance.shard import BadShard, Shard
from tests.harness.conftest import Done


@pytest.mark.parametrize("tier", ["smoke", "core"])
@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_shards_are_disjoint_complete_and_of_about_one_size(tier: str, of: int) -> None:
    every = of_tier(tier)
    shards = [Plan(tier, every, Shard(number, of)).checks for number in range(1, of + 1)]
    assert sorted(check.id for shard in shards for check in shard) == sorted(check.id for check in every)
    assert max(map(len, shards)) < 1.5 * len(every) / of + 5
    for shard in shards:
        assert shard == [check for check in every if check in shard], "in the order of the tier"


def test_a_check_stays_in_its_shard_whatever_else_is_planned() -> None:
    smoke, core = (Plan(tier, of_tier(tier), Shard(2, 3)).checks for tier in ("smoke", "core"))
    assert set(smoke) == set(of_tier("smoke")) & set(core)


def test_the_shard_of_a_digest_is_the_same_everywhere() -> None:
    assert [Shard(number, 4).holds("00000000000000ff") for number in (1, 2, 3, 4)] == [False, False, False, True]


@pytest.mark.parametrize("text", ["1/1", "2/4", "4/4", "10/12"])
def test_a_shard_reads_as_it_is_written(text: str) -> None:
    assert str(Shard.parse(text)) == text


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", " 1/2", "1/2 ", "1.0/2", "¹/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(BadShard, match="is no share: write 1/4 to 4/4"):
        Shard.parse(text)


def test_a_plan_is_recorded_with_its_total_and_its_digest() -> None:
    every = of_tier("smoke")
    whole, part = Plan("tier smoke", every).recorded(), Plan("tier smoke", every, Shard(2, 4)).recorded()
    assert part == whole | {"shard": "2/4"}
    assert whole == {"title": "tier smoke", "checks": len(every), "digest": joint(map(digest, reversed(every)))}
    assert Plan("tier smoke", every[1:]).recorded()["digest"] != whole["digest"]


IDS = [f"decode-noncausal-bf16-b1-q2-h2:1-d16-p1-kv{keys}-packed-random" for keys in range(9, 15)]


def test_a_run_of_a_shard_says_so(start: Callable[..., Done], elsewhere: Path) -> None:
    path = elsewhere / "record.jsonl"
    every = [f"--case={case}" for case in IDS]
    done = start("run", "--backend", "torch", "--target", "cpu", *every, "--shard", "2/2", "--record", path)
    assert done.code == 0, done.printed
    assert "6 chosen cases, shard 2/2, backend torch" in done.out
    record = read(path)
    assert record.complete
    assert 0 < record.header["planned"] == len(record.cases) < len(IDS)
    assert (record.run["plan"]["checks"], record.run["plan"]["shard"]) == (6, "2/2")
    assert all(int(result["digest"], 16) % 2 == 1 for result in record.cases)
    assert f"torch, shard 2/2: {len(record.cases)} of {len(record.cases)} cases run" in done.out


def test_a_shard_without_a_check_runs_nothing(start: Callable[..., Done], elsewhere: Path) -> None:
    path = elsewhere / "record.jsonl"
    number = int(digest(of_tier("smoke")[0]), 16) % 5 + 1
    other = number % 5 + 1
    command = ("run", "--backend", "torch", "--target", "cpu", "--case", of_tier("smoke")[0].id, "--record", path)
    done = start(*command, "--shard", f"{other}/5")
    assert done.code == 3, done.printed
    assert "NOTHING RAN: no case was selected." in done.out
    assert not path.exists()
