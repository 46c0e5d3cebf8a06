"""Which of an AITER's kernels the backend has, and what comes of a step that needs one that it has not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.aiter_source import AiterNotLoadable, AiterSource, KernelAbsent
from conformance.backends import Backend, aiter
from conformance.case import Case
from conformance.execute import run
from conformance.status import Status
from conformance.targets import Target
from tests.harness.dispatch_kernels import KERNELS

TARGET = Target("interpreter", "gfx942", torch.device("cpu"))
DECODE = Case.parse("decode-causal-bf16-b2-q2-h2:1-d16-p16-kv9+12-packed-random")
PREFILL = Case.parse("prefill-noncausal-bf16-b2-q5+4-h2:1-d16-p16-kv5+4-t1-packed-random")
SINGLE = Case.parse("decode-causal-bf16-b2-q1-h2:1-d64-p16-kv9+30-w12:0-packed-random")

Loads = Callable[[AiterSource, Target, Sequence[str], str], Any]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiter, "_kernels", {})
    monkeypatch.setattr(aiter, "_arch", [])


def loading(**failures: AiterNotLoadable) -> Loads:
    """Gives the kernels written here by where they are looked for, or raises what a function's name says."""
    named = {("aiter.ops", "flash_attn_varlen_func"): "mha", ("aiter", "flash_attn_varlen_func"): "ck",
             ("aiter.ops", "flash_attn_with_kvcache"): "kvcache", ("aiter.ops", "unified_attention"): "unified",
             ("aiter", "paged_attention_v1"): "paged"}  # fmt: skip

    def load(source: AiterSource, target: Target, modules: Sequence[str], function: str) -> Any:
        name = named[".".join(modules[0].split(".")[:2]), function]
        if name in failures:
            raise failures[name]
        return KERNELS[name]

    return load


def prepared(monkeypatch: pytest.MonkeyPatch, root: Path, load: Loads, *, rocm: bool = False) -> Backend:
    monkeypatch.setattr(aiter, "load_kernel", load)
    monkeypatch.setattr(aiter, "is_rocm_build", lambda source, target: rocm)
    aiter.prepare(AiterSource(root, "tree", "0.1.20", ""), TARGET)
    return Backend("aiter", aiter.attend)


def test_a_kernel_that_this_aiter_lacks_is_missed_by_the_steps_that_need_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = prepared(monkeypatch, tmp_path, loading(mha=KernelAbsent("AITER has no module")))
    assert run(DECODE, backend, TARGET).status is Status.PASS
    verdict = run(PREFILL, backend, TARGET)
    assert (verdict.status, verdict.reason) == (Status.UNSUPPORTED, "this AITER has no mha kernel")


def test_a_kernel_that_does_not_import_is_an_error_of_the_steps_that_need_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is there, so that declining would hide that it is broken."""
    backend = prepared(monkeypatch, tmp_path, loading(mha=AiterNotLoadable("AITER does not import")))
    assert run(DECODE, backend, TARGET).status is Status.PASS
    verdict = run(PREFILL, backend, TARGET)
    assert verdict.status is Status.ERROR
    assert "AITER does not import" in verdict.reason


@pytest.mark.parametrize("name", aiter.NEEDED)
@pytest.mark.parametrize("error", [KernelAbsent("gone"), AiterNotLoadable("broken")])
def test_without_a_kernel_of_decodes_nothing_is_run(
    error: AiterNotLoadable, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AiterNotLoadable, match=str(error)):
        prepared(monkeypatch, tmp_path, loading(**{name: error}))


PAGED = "def paged_attention_v1(" + ", ".join(f"a{at}" for at in range(20)) + "): ...\n"
VARLEN = "def flash_attn_varlen_func(q, k, v, **options): ...\n"


def rocm_build(root: Path, paged: str = PAGED) -> Path:
    (root / "aiter/ops").mkdir(parents=True)
    (root / "aiter/ops/mha.py").write_text(VARLEN)
    (root / "aiter/ops/attention.py").write_text(paged)
    return root


def test_a_rocm_build_has_kernels_of_ck_and_hip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.ops.aiter, "paged_attention_v1", KERNELS["paged"], raising=False)
    backend = prepared(monkeypatch, rocm_build(tmp_path), loading(), rocm=True)
    assert [run(case, backend, TARGET).path for case in (PREFILL, SINGLE, DECODE)] == [
        "prefill.ck",
        "paged.trimmed",
        "unified",
    ]
    assert {run(case, backend, TARGET).status for case in (PREFILL, SINGLE, DECODE)} == {Status.PASS}


def test_a_kernel_with_other_parameters_is_not_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = rocm_build(tmp_path, paged="def paged_attention_v1(out, query): ...\n")
    backend = prepared(monkeypatch, root, loading(), rocm=True)
    assert run(DECODE, backend, TARGET).status is Status.PASS
    verdict = run(SINGLE, backend, TARGET)
    assert verdict.status is Status.ERROR
    sentence = (
        "AITER 0.1.20 (tree) does not take the dispatch's call of paged: paged_attention_v1 in aiter/ops/attention.py"
    )
    assert f"{sentence}: too many positional arguments" in verdict.reason
