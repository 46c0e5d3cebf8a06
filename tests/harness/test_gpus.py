"""Which GPUs a process sees, which one a worker takes, and real workers that do."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest

from conformance import gpus, workers
from conformance.gpus import number, pin, visible
from conformance.record import read
from tests.harness.conftest import Done

HIP, ROCR, CUDA = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"

# What a list says -> the GPUs on CUDA, and on ROCm; None where they are the same.
LISTS: dict[str, tuple[list[str], list[str] | None]] = {
    "0": (["0"], None),
    "1,3,6": (["1", "3", "6"], None),
    "6, 3 ,1": (["6", "3", "1"], None),
    "": ([], None),
    "-1": ([], None),
    "none": ([], None),
    "NoDevFiles": ([], None),
    "1,-1,2": (["1"], None),
    "1,,2": (["1"], None),
    "1,x,2": (["1"], None),
    "2,": (["2"], None),
    "2,2": ([], ["2"]),
    "1,2,1,3": ([], ["1", "2", "3"]),
    "GPU-8f2a": (["GPU-8f2a"], None),
    "GPU-8f2a,GPU-17": (["GPU-8f2a", "GPU-17"], None),
    "GPU-8f2a,1": (["GPU-8f2a"], None),
    "1,GPU-8f2a": (["1"], None),
    "MIG-5,MIG-GPU-8f2a/1/0": (["MIG-5", "MIG-GPU-8f2a/1/0"], None),
    "MIG-5,GPU-8f2a": (["MIG-5"], None),
}


@pytest.mark.parametrize("listed", LISTS)
def test_a_list_is_read_as_its_driver_reads_it(listed: str) -> None:
    on_cuda, on_rocm = LISTS[listed]
    assert visible({CUDA: listed}, hip=False) == on_cuda
    for name in (HIP, CUDA):
        assert visible({name: listed}, hip=True) == (on_cuda if on_rocm is None else on_rocm)


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        ({}, None),
        ({ROCR: "4,6"}, ["0", "1"]),
        ({ROCR: "GPU-8f2a,GPU-17,GPU-3"}, ["0", "1", "2"]),
        ({ROCR: ""}, []),
        ({ROCR: "", HIP: "0"}, []),
        ({ROCR: "4,6", HIP: "1"}, ["1"]),
        ({ROCR: "4,6", HIP: "1,0"}, ["1", "0"]),
        ({ROCR: "4,6", HIP: "0,4,1"}, ["0"]),
        ({ROCR: "4,6", HIP: ""}, []),
        ({ROCR: "4,6", CUDA: "1"}, ["1"]),
        ({ROCR: "4,6", HIP: "GPU-17"}, ["GPU-17"]),
        ({HIP: "5", CUDA: "1,2"}, ["5"]),
        ({HIP: "", CUDA: "1,2"}, []),
    ],
)
def test_on_rocm_hip_counts_among_what_rocr_left(environ: Mapping[str, str], seen: list[str] | None) -> None:
    assert visible(environ, hip=True) == seen


def test_cuda_knows_nothing_of_the_lists_of_rocm() -> None:
    assert visible({HIP: "1", ROCR: "2"}, hip=False) is None
    assert visible({HIP: "1", ROCR: "2", CUDA: "3,4"}, hip=False) == ["3", "4"]


@pytest.mark.parametrize(
    ("listed", "present", "seen"),
    [
        (None, 3, ["0", "1", "2"]),
        (None, 0, []),
        ("1,3,6", 3, ["1", "3", "6"]),
        ("1,3,6", 2, ["1", "3"]),  # a host of four GPUs
        ("1,3,6", 0, []),
        ("MIG-5,MIG-7", 1, ["MIG-5", "MIG-7"]),  # a process sees one MIG device, whatever is listed
    ],
)
@pytest.mark.parametrize("hip", [False, True])
def test_a_list_ends_at_a_gpu_that_is_not_there(listed: str | None, present: int, seen: list[str], hip: bool) -> None:
    assert visible({} if listed is None else {CUDA: listed}, hip=hip, present=present) == seen


@pytest.mark.parametrize(
    ("environ", "hip", "pinned"),
    [
        ({}, False, {CUDA: "3"}),
        ({CUDA: "1,3"}, False, {CUDA: "3"}),
        ({HIP: "1,3"}, False, {CUDA: "3"}),
        ({}, True, {HIP: "3"}),
        ({HIP: "1,3"}, True, {HIP: "3"}),
        ({CUDA: "1,3"}, True, {CUDA: "3"}),
        ({HIP: "1,3", CUDA: "1,3"}, True, {HIP: "3", CUDA: "3"}),
        ({ROCR: "0,1,2,3"}, True, {HIP: "3"}),
        ({ROCR: "0,1,2,3", CUDA: "1,3"}, True, {CUDA: "3"}),
    ],
)
def test_a_worker_is_pinned_by_the_variable_that_its_driver_reads(
    environ: dict[str, str], hip: bool, pinned: dict[str, str]
) -> None:
    assert pin(environ, ["1", "3"], 1, hip=hip) == pinned
    after = environ | pinned
    assert visible(after, hip=hip) == ["3"]
    for worker in (0, 1, 5):
        assert after | pin(after, ["3"], worker, hip=hip) == after, "a worker that is pinned stays where it is"


def test_workers_go_round_the_gpus() -> None:
    taken = [pin({}, ["1", "3", "GPU-8f2a"], worker, hip=False)[CUDA] for worker in range(7)]
    assert taken == ["1", "3", "GPU-8f2a", "1", "3", "GPU-8f2a", "1"]
    assert pin({CUDA: ""}, [], 4, hip=False) == {}


@pytest.mark.parametrize(("worker", "n"), [("gw0", 0), ("gw17", 17), ("master", 0), ("gw", 0), ("", 0), ("a-gw3", 0)])
def test_the_number_of_a_worker(worker: str, n: int) -> None:
    assert number(worker) == n


@pytest.mark.parametrize(
    ("code", "said", "count"), [(0, "8\n", 8), (0, "", 0), (1, "8\n", 0), (0, "a warning\n", 0), (-11, "", 0)]
)
def test_gpus_that_another_process_counts(monkeypatch: pytest.MonkeyPatch, code: int, said: str, count: int) -> None:
    monkeypatch.setattr(gpus.subprocess, "run", lambda command, **_: CompletedProcess(command, code, said))
    assert gpus.count_apart() == count


def test_another_process_counts_what_torch_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv(CUDA, "0")
    assert gpus.count_apart() == torch.cuda.device_count()


@pytest.mark.parametrize(("told", "taken"), [(["4", "6"], "6"), (None, "7"), ([], "5,7")])
def test_a_worker_of_another_host_looks_for_itself(
    monkeypatch: pytest.MonkeyPatch, told: list[str] | None, taken: str
) -> None:
    """Without asking the driver in its own process, which would read the list too early."""
    monkeypatch.setenv(CUDA, "5,7")
    monkeypatch.setattr(workers, "HIP", False)
    monkeypatch.setattr(gpus, "count_apart", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: pytest.fail("the driver was asked"))
    worker: Any = SimpleNamespace(workerinput={"workerid": "gw3", "gpus": told}, getoption=lambda name: None)
    workers.pytest_configure(worker)
    assert os.environ[CUDA] == taken


# -- real workers ------------------------------------------------------------------------------------------------------

IDS = [f"decode-noncausal-bf16-b1-q2-h2:1-d16-p1-kv{keys}-packed-random" for keys in range(9, 21)]


Read = dict[str, list[dict[str, str]]]
"""By worker, what each of its processes read; "" is the one that controls them."""

OnHost = Callable[..., tuple[Done, Read]]


@pytest.fixture
def on_host(start: Callable[..., Done], elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> OnHost:
    """Runs the suite on a host of so many GPUs: what came of it, and what the drivers read."""
    (elsewhere / "sitecustomize.py").write_text("import gpu_host")
    log = elsewhere / "gpu.log"

    def on_host(count: int, environ: dict[str, str], *words: object, cases: Iterable[str] = IDS) -> tuple[Done, Read]:
        for name in (HIP, ROCR, CUDA):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"GPUS_OF_HOST": str(count), "GPU_LOG": str(log), **environ}.items():
            monkeypatch.setenv(name, value)
        done = start("run", "--backend", "torch", *(f"--case={case}" for case in cases), *words)
        read: Read = {}
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            read.setdefault(entry["who"], []).append(entry["read"])
        return done, read

    return on_host


def test_each_worker_and_its_child_see_one_gpu_of_the_callers_list(on_host: OnHost, elsewhere: Path) -> None:
    """A driver reads the list when it is first asked, which the choice of a target does: it is short by then."""
    record = elsewhere / "record.jsonl"
    done, read_by = on_host(8, {CUDA: "1,3,6"}, "-n", "auto", "--record", record, "--isolate", "all")
    assert done.code == 0, done.printed
    assert read_by.pop("") == [{CUDA: "1,3,6"}]
    assert {who: {process[CUDA] for process in processes} for who, processes in read_by.items()} == {
        "gw0": {"1"}, "gw1": {"3"}, "gw2": {"6"},
    }  # fmt: skip
    assert [len(processes) for processes in read_by.values()] == [2, 2, 2]
    assert read(record).complete
    environment = read(record).header["environment"]
    assert (environment["target"], environment["GPUs"]) == ("gpu:sm_90", "3: 1, 3, 6 (CUDA_VISIBLE_DEVICES=1,3,6)")


def test_without_a_list_workers_share_every_gpu(on_host: OnHost) -> None:
    done, read_by = on_host(2, {}, "-n", "auto", "--workers-per-gpu", 2, "--target", "gpu", "--isolate", "none")
    assert done.code == 0, done.printed
    assert read_by == {"": [{}]} | {f"gw{n}": [{CUDA: str(n % 2)}] for n in range(4)}


def test_hidden_gpus_stay_hidden(on_host: OnHost) -> None:
    done, read_by = on_host(8, {CUDA: ""}, "-n", 1)
    assert done.code == 0, done.printed
    assert "backend torch, target cpu" in done.out
    assert set(read_by) == {"", "gw0"}
    assert all(read == {CUDA: ""} for processes in read_by.values() for read in processes)


def test_on_other_targets_auto_counts_cpus_and_no_worker_is_pinned(on_host: OnHost) -> None:
    done, read_by = on_host(8, {CUDA: "1,3,6"}, "-n", "auto", "--target", "cpu", "--maxprocesses", 2)
    assert done.code == 0, done.printed
    assert "gw0" in read_by
    assert all(read == {CUDA: "1,3,6"} for processes in read_by.values() for read in processes)


def test_a_worker_runs_one_after_the_other_what_needs_the_same_kernels(on_host: OnHost) -> None:
    """Two kinds of cases in turn: each worker begins with one kind, and changes to the other at most once."""
    both = [case.replace("-p1-", f"-p{page}-") for case in IDS for page in (16, 8)]
    done, _ = on_host(2, {}, "-n", 2, "--isolate", "none", cases=both)
    assert done.code == 0, done.printed
    run = re.findall(r"^\[(gw\d)\].* PASS .*-p(\d+)-kv", done.out, re.MULTILINE)
    assert len(run) == len(both)
    stretches = {worker: [page for page, _ in groupby(p for w, p in run if w == worker)] for worker in ("gw0", "gw1")}
    assert sorted(pages[0] for pages in stretches.values()) == ["16", "8"], stretches
    assert all(len(pages) <= 2 for pages in stretches.values()), stretches


def test_a_case_that_kills_its_worker_is_one_verdict(on_host: OnHost, elsewhere: Path) -> None:
    """Which it runs once, and another worker takes over what the dead one had before it."""
    record = elsewhere / "record.jsonl"
    words = ("--backend", "answers:by_page_size", "--isolate", "none", "-n", 2, "--record", record)
    cases = [case.replace("-p1-", f"-p{14 if case == IDS[3] else 1}-") for case in IDS]
    done, read_by = on_host(2, {}, *words, cases=cases)
    assert done.code == 1, done.printed
    assert read(record).complete
    assert read(record).counts == {"PASS": 11, "CRASH": 1}
    assert len(read_by) == 4, "the process that controls them, two workers, and one for the dead"
