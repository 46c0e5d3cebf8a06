"""Checks in a child process: how it dies is a verdict, the next check is served, and the record stays whole."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conformance import isolated
from conformance.check import Check
from conformance.isolate import Isolation, is_risky
from conformance.record import read
from conformance.status import Status
from conformance.system import choose
from conformance.targets import Target
from tests.harness import faults

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


def check_of(way: Callable[..., object], keys: int = 9) -> Check:
    page_size = faults.WAYS.index(way) + 1
    return Check.parse(f"decode-noncausal-bf16-b1-q2-h2:1-d16-p{page_size}-kv{keys}-packed-random")


@pytest.fixture
def isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Isolation]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    child = Isolation(choose("faults:by_page_size", "cpu", None), time_limit=60)
    yield child
    child.close()


DEATHS = {
    faults.reads_address_zero: "killed by SIGSEGV, in string_at (",
    faults.aborts: "killed by SIGABRT, in aborts (tests/harness/faults.py:",
    faults.is_killed: "the process died: killed by SIGKILL",
    faults.leaves: "the process died: exit code 42",
}


@pytest.mark.parametrize("way", DEATHS)
def test_a_death_is_a_crash_and_the_next_check_is_served(isolation: Isolation, way: Callable[..., Tensor]) -> None:
    first = isolation.run(check_of(faults.right))
    died = isolation.run(check_of(way))
    after = isolation.run(check_of(faults.right, keys=10))
    assert [outcome.status for outcome in (first, died, after)] == [Status.PASS, Status.CRASH, Status.PASS]
    assert DEATHS[way] in str(died.result["reason"])
    assert died.result["digest"] != after.result["digest"]
    assert f"CRASH  faults:by_page_size (cpu)   {check_of(way).id}" in died.text
    assert f"--backend faults:by_page_size --target cpu --case {check_of(way).id}" in died.text


def test_what_the_driver_said_last_is_passed_on(isolation: Isolation) -> None:
    died = isolation.run(check_of(faults.aborts))
    assert "Memory access fault by GPU node-1 on address 0x7f0000000000" in str(died.result["reason"])


def test_a_hang_is_a_timeout_that_says_where(isolation: Isolation) -> None:
    assert isolation.run(check_of(faults.right)).status is Status.PASS
    isolation.time_limit = 2
    hung = isolation.run(check_of(faults.hangs))
    isolation.time_limit = 60
    assert hung.status is Status.TIMEOUT
    assert "no answer in 2 s, in hangs (tests/harness/faults.py:" in str(hung.result["reason"])
    assert isolation.run(check_of(faults.right)).status is Status.PASS


def test_a_crash_of_what_is_right_alone_says_what_ran_before(isolation: Isolation) -> None:
    """A kernel that writes where it should not may kill the process only during a later check."""
    assert isolation.run(check_of(faults.harms_what_comes_after)).status is Status.PASS
    died = isolation.run(check_of(faults.is_harmed))
    assert died.status is Status.CRASH
    before = check_of(faults.harms_what_comes_after).id
    suspect = f"; as the first of a process: PASS. What ran before it there, {before} the last, is suspect too"
    assert str(died.result["reason"]).endswith(suspect)


def test_a_process_that_dies_before_it_can_run_anything_is_no_crash_of_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys\nif 'isolated' in sys.argv[0]:\n    sys.exit('no such thing')\nfrom faults import right\n"
    (tmp_path / "dies.py").write_text(code)
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(tmp_path)
    isolation = Isolation(choose("dies:right", "cpu", None), time_limit=60)
    refused = isolation.run(check_of(faults.right))
    (tmp_path / "dies.py").write_text("from faults import right\n")
    assert isolation.run(check_of(faults.right, keys=10)).status is Status.NOT_RUN  # it is not started again for each
    isolation.close()
    assert refused.status is Status.NOT_RUN
    told = "before anything ran the process died: exit code 1: no such thing"
    assert refused.result["reason"] == told


def test_a_crash_is_not_retried(isolation: Isolation) -> None:
    assert isolation.run(check_of(faults.leaves_the_first_time)).status is Status.CRASH
    assert isolation.run(check_of(faults.leaves_the_first_time)).status is Status.PASS  # asked for once more


def test_one_child_serves_many_checks(isolation: Isolation) -> None:
    isolation.run(check_of(faults.right))
    child = isolation._child
    assert [isolation.run(check_of(faults.right, keys)).status for keys in range(4, 8)] == [Status.PASS] * 4
    assert isolation._child is child
    assert isolation.environment["target"] == "cpu"


def test_a_gpu_that_is_lost_is_a_crash_and_the_next_check_gets_a_new_child(isolation: Isolation) -> None:
    """CUDA survives a fault of memory by failing every later call, so that the process lives on, and is of no use."""
    isolation.run(check_of(faults.right))
    child = isolation._child
    assert child is not None
    right = {"result": {"status": "ERROR"}, "text": "ERROR", "lost": "CUDA error: an illegal memory access"}
    child.answer = lambda _: right  # type: ignore[method-assign]
    lost = isolation.run(check_of(faults.right))
    assert lost.status is Status.CRASH
    assert lost.result["reason"] == "the GPU is lost to the process: CUDA error: an illegal memory access"
    assert isolation._child is None
    assert isolation.run(check_of(faults.right)).status is Status.PASS


def test_a_gpu_is_lost_when_nothing_runs_on_it() -> None:
    assert isolated._why_gpu_is_lost(Target("cpu", "cpu", torch.device("cpu"))) == ""
    assert isolated._why_gpu_is_lost(Target("gpu", "sm_90", torch.device("cuda", 99)))


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    empty = tmp_path / "aiter" / "ops" / "triton"
    empty.mkdir(parents=True)
    isolation = Isolation(choose("aiter", "interpreter", str(tmp_path)), time_limit=60)
    outcome = isolation.run(check_of(faults.right))
    isolation.close()
    assert outcome.status is Status.NOT_RUN
    assert "has no module aiter.ops.triton.attention.mha_v3" in outcome.text


def test_a_child_ends_with_its_parent(isolation: Isolation) -> None:
    isolation.run(check_of(faults.right))
    child = isolation._child
    assert child is not None
    isolation.close()
    assert child._process.returncode is not None


RISKY = {
    "decode-noncausal-bf16-b2-q8-h2:1-d32-p16-kv40+21-table2x-packed-poison.table": True,
    "poison.table/decode-noncausal-bf16-b2-q8-h2:1-d32-p16-kv40+21-table2x-packed-needle": True,
    "decode-noncausal-bf16-b2-q1-h8:8-d256-p1024-kv5000+3-pages.huge-packed-random": True,
    "decode-causal-bf16-b2-q0+1-h2:1-d32-p16-kv40+21-packed-random": True,
    "decode-noncausal-bf16-b2-q8+0-h2:1-d32-p16-kv40+21-packed-random": True,
    "decode-causal-bf16-b2-q8-h2:1-d32-p16-kv40+0-packed-random": True,
    "decode-noncausal-bf16-b2-q8-h2:1-d32-p16-kv40+0-packed-random": False,
    "decode-noncausal-bf16-b2-q8-h2:1-d32-p16-kv40+21-packed-poison.tails": False,
    "repeated/decode-noncausal-bf16-b2-q8-h2:1-d32-p16-kv40+21-packed-random": False,
}


@pytest.mark.parametrize("check", RISKY)
def test_what_might_take_a_process_along_is_risky(check: str) -> None:
    assert is_risky(Check.parse(check)) is RISKY[check]


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (tmp_path, ROOT, HERE)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "conformance", "run", "--backend", "faults:by_page_size", *words]
    command += ["-p", "no:cacheprovider"]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_run_survives_whatever_its_checks_do(tmp_path: Path) -> None:
    """Without xdist, in one process: each fault is its case's own, and the record is complete."""
    ways = (faults.right, faults.reads_address_zero, faults.hangs, faults.leaves, faults.right)
    ids = [check_of(way, keys).id for keys, way in enumerate(ways, 4)]
    record = tmp_path / "record.jsonl"
    done = run(tmp_path, *(word for name in ids for word in ("--case", name)), "--isolate", "all", "--time-limit", "5",
               "--record", str(record))  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 PASS, 2 CRASH, 1 TIMEOUT" in done.stdout
    kept = read(record)
    assert kept.complete
    assert kept.header["environment"]["target"] == "cpu"
    assert [case["case"] for case in kept.cases] == ids
    assert [case["status"] for case in kept.cases] == ["PASS", "CRASH", "TIMEOUT", "CRASH", "PASS"]
    assert "Traceback" not in done.stdout + done.stderr


def test_what_aborts_on_the_interpreter_costs_its_check_alone(tmp_path: Path) -> None:
    """Without being asked for: a kernel that is interpreted corrupts the memory of the process that runs it."""
    ids = [check_of(way, keys).id for keys, way in enumerate((faults.right, faults.aborts, faults.right), 4)]
    record = tmp_path / "record.jsonl"
    words = [word for name in ids for word in ("--case", name)]
    done = run(tmp_path, "--target", "interpreter", *words, "--record", str(record))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 PASS, 1 CRASH" in done.stdout
    kept = read(record)
    assert kept.complete
    assert [(case["case"], case["status"]) for case in kept.cases] == list(
        zip(ids, ("PASS", "CRASH", "PASS"), strict=True)
    )
    assert "killed by SIGABRT, in aborts (tests/harness/faults.py:" in kept.cases[1]["reason"]


def test_risky_checks_alone_are_isolated_unless_told_otherwise(tmp_path: Path) -> None:
    """On a CPU without kernels. A case that is not risky takes the run along; a risky one's fault is its own alone."""
    risky = check_of(faults.leaves).id.replace("packed-random", "packed-poison.table")
    done = run(tmp_path, "--case", risky)
    assert done.returncode == 1
    assert "1 CRASH" in done.stdout
    assert run(tmp_path, "--case", risky, "--isolate", "none").returncode == 42
    assert run(tmp_path, "--case", check_of(faults.leaves).id).returncode == 42


@pytest.mark.parametrize("option", [("--isolate", "some"), ("--time-limit", "0"), ("--time-limit", "soon")])
def test_a_mistaken_option_costs_one_sentence(tmp_path: Path, option: tuple[str, str]) -> None:
    done = run(tmp_path, *option)
    assert done.returncode == 2
    assert option[0] in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
