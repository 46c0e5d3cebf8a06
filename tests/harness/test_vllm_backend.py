"""The adapter to vLLM, on vLLMs of the tests' own: what it takes from which, what it declines, and what it judges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import make
from conformance.record import read
from conformance.status import Unsupported
from conformance.vllm_backend import caches, kernels, step
from conformance.vllm_backend.calling import call
from tests.harness.conftest import Done
from tests.harness.small_vllm import COMMON, NEWER, OLDER, write_kernels, write_vllm

SHAPE = "h2:1-d64-p16"

Judged = dict[str, tuple[str, str]]


@pytest.fixture
def judge(start: Callable[..., Done], elsewhere: Path) -> Callable[..., tuple[Judged, Done]]:
    """Runs cases on the vLLM in `elsewhere`: status, and path or reason, by id; and the run."""
    tree = write_kernels(elsewhere / "source")

    def judge(*ids: str) -> tuple[Judged, Done]:
        path = elsewhere / "record.jsonl"
        words = [word for case in ids for word in ("--case", case)]
        done = start("run", "--backend", "vllm", "--target", "interpreter", "--aiter", tree, "--record", path, *words)
        results = read(path).cases if path.exists() else []
        return {str(r["case"]): (str(r["status"]), str(r.get("path") or r.get("reason"))) for r in results}, done

    return judge


# -- what runs -------------------------------------------------------------------------------------------------------


def test_a_vllm_of_today_runs_each_part_of_a_batch_on_its_kernel(
    judge: Callable[..., tuple[Judged, Done]], elsewhere: Path
) -> None:
    write_vllm(elsewhere, "0.33.0", COMMON + NEWER)
    expected = {
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-packed-random": ("PASS", "unified"),
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-w8:0-softcap2-sinks-packed-random": ("PASS", "unified"),
        f"decode-causal-bf16-b2-q1-{SHAPE}-kv40+21-packed-random": ("PASS", "paged.unified"),
        f"decode-causal-bf16-b2-q1-{SHAPE}-kv40+21-cache.e4m3fnuz-packed-random": ("PASS", "paged.unified"),
        f"decode-noncausal-bf16-b2-q3-{SHAPE}-kv40+21-packed-random": ("PASS", "kvcache"),
        f"prefill-causal-bf16-b2-q20+9-{SHAPE}-kv20+9-t1-packed-random": ("PASS", "prefill.mha"),
        f"prefill-noncausal-bf16-b2-q20+9-{SHAPE}-kv20+9-t1-packed-random": ("PASS", "prefill.mha"),
        f"extend-causal-bf16-b2-q20+9-{SHAPE}-kv70+30-t1-chunk16-packed-random": ("PASS", "extend.mha"),
        f"mixed-causal-bf16-b3-q3+20+9-{SHAPE}-kv40+70+9-t3-packed-random": ("PASS", "unified+extend.mha+prefill.mha"),
    }
    judged, done = judge(*expected)
    assert judged == expected
    assert done.code == 0, done.printed
    assert "vllm 0.33.0 on aiter unknown: 9 of 9 cases run: 9 PASS" in done.out
    assert read(elsewhere / "record.jsonl").name == "vllm 0.33.0 on aiter unknown"


def test_an_older_vllm_has_another_cache_another_batch_and_no_causal(
    judge: Callable[..., tuple[Judged, Done]], elsewhere: Path
) -> None:
    write_vllm(elsewhere, "0.19.1", COMMON + OLDER)
    expected = {
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-contiguous-random": ("PASS", "unified"),
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-w8:4-contiguous-random": ("PASS", "unified"),
    }
    refused = {
        f"decode-noncausal-bf16-b2-q3-{SHAPE}-kv40+21-contiguous-random": "this vLLM has no `causal` in its metadata",
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-sinks-contiguous-random": "this vLLM says that it has no attention",
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-packed-random": "this vLLM keeps K and V contiguous, not packed",
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-cache.e4m3fnuz-contiguous-random": "with a cache in fp8",
    }
    judged, done = judge(*expected, *refused)
    assert {case: judged[case] for case in expected} == expected
    assert {judged[case][0] for case in refused} == {"UNSUPPORTED"}
    for case, reason in refused.items():
        assert reason in judged[case][1]
    assert done.code == 0, done.printed


def test_what_vllm_drops_without_a_word_is_found_wrong(
    judge: Callable[..., tuple[Judged, Done]], elsewhere: Path
) -> None:
    write_vllm(elsewhere, "0.33.0", COMMON + NEWER)
    wrong = (
        f"extend-noncausal-bf16-b2-q20+9-{SHAPE}-kv70+30-t1-packed-random",  # causal=True, whatever the metadata says
        f"decode-noncausal-bf16-b2-q3-{SHAPE}-kv40+21-sinks-packed-random",
        f"prefill-causal-bf16-b2-q20+9-{SHAPE}-kv20+9-softcap2-t1-packed-random",
    )
    judged, done = judge(*wrong)
    assert {status for status, _ in judged.values()} == {"MISMATCH"}
    assert (len(judged), done.code) == (3, 1)


def test_what_vllm_cannot_be_asked_is_declined(judge: Callable[..., tuple[Judged, Done]], elsewhere: Path) -> None:
    write_vllm(elsewhere, "0.33.0", COMMON + NEWER)
    reasons = {
        f"decode-noncausal-bf16-b2-q3-{SHAPE}-kv40+21-w8:4-packed-random": "it is a number of keys, not (8, 4)",
        f"decode-noncausal-bf16-b2-q3-{SHAPE}-kv40+21-w8:inf-packed-random": "it is a number of keys, not (8, -1)",
        "decode-causal-bf16-b2-q3-h2:1-d64-p48-kv40+21-packed-random": "pages of 16 or 32 keys, not 48",
        "decode-causal-bf16-b2-q3-h2:1-d80-p16-kv40+21-packed-random": "head dimensions 64, not 80",
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-cache.e4m3fn-packed-random": "is e4m3fnuz here, not e4m3fn",
        f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-cache.e4m3fnuz-q.e4m3fnuz-packed-random": "queries in 16 bits",
    }
    judged, done = judge(*reasons)
    for case, reason in reasons.items():
        assert judged[case][0] == "UNSUPPORTED"
        assert reason in judged[case][1]
    assert done.code == 3, done.printed  # nothing ran


# -- a vLLM that is not there, or not whole --------------------------------------------------------------------------


def test_without_vllm_nothing_runs_and_a_sentence_says_why(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    done = command("run", "--backend", "vllm")
    assert done.code == 2
    assert "backend vllm needs vLLM, which is not installed: tox -e vllm" in done.printed


def test_a_vllm_that_is_too_old_is_refused(start: Callable[..., Done], elsewhere: Path) -> None:
    write_vllm(elsewhere, "0.18.1", COMMON + OLDER)
    done = start("run", "--backend", "vllm", "--aiter", write_kernels(elsewhere / "source"))
    assert done.code == 2
    assert "backend vllm needs vLLM 0.19 or newer, not 0.18.1" in done.printed
    assert "Traceback" not in done.printed


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        ("import no_such_package\n", "vLLM 0.33.0 needs the package 'no_such_package', which is not installed"),
        ("import vllm.elsewhere\n", "vLLM 0.33.0 has no module vllm.elsewhere"),
        ("raise RuntimeError('no such\\ndriver')\n", "vLLM 0.33.0 does not import here: RuntimeError: no such"),
    ],
)
def test_a_vllm_that_does_not_import_is_a_sentence(
    judge: Callable[..., tuple[Judged, Done]], elsewhere: Path, backend: str, sentence: str
) -> None:
    write_vllm(elsewhere, "0.33.0", backend)
    judged, done = judge(case := f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-packed-random")
    assert judged[case][0] == "NOT RUN"
    assert sentence in judged[case][1]
    assert done.code == 3
    assert "Traceback" not in done.printed


def test_parameters_that_are_new_are_named() -> None:
    def build(batch: int, sparsity: float, *, depth: int = 0, **more: object) -> int:
        return batch + depth

    with pytest.raises(Unsupported, match=r"build of this vLLM wants sparsity, which"):
        call(build, batch=1)
    assert call(build, batch=1, sparsity=0.0, depth=2, unheard_of=3) == 3


# -- what stands in for kernels of a ROCm build ------------------------------------------------------------------------


def test_varlen_in_triton_answers_as_the_ck_kernel_does() -> None:
    q, seen = torch.randn(5, 4, 8), {}

    def mha(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        seen.update(options)
        return q + 1, torch.arange(20.0).view(5, 4)

    out, starts = torch.zeros(5, 4, 8), torch.tensor([0, 2, 5], dtype=torch.int32)
    varlen = partial(
        kernels.varlen_in_triton(mha), q=q, k=q, v=q, cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=3,
        max_seqlen_k=3, min_seqlen_q=1, softmax_scale=0.5, alibi_slopes=torch.ones(4), out=out,
    )  # fmt: skip
    answer, lse = varlen(causal=False, window_size=(7, 0), return_lse=True)
    assert answer is out
    assert torch.equal(out, q + 1)
    assert torch.equal(lse, torch.arange(20.0).view(5, 4).T)
    assert (seen["causal"], seen["window_size"]) == (True, (7, -1))  # a window that ends with the query is causal
    assert seen["alibi_slopes"].shape == (2, 4)
    assert varlen(causal=False, window_size=(-1, -1)) is out
    assert not seen["causal"]
    for window in ((0, 0), (-1, 3)):
        with pytest.raises(Unsupported, match="needs a ROCm build"):
            varlen(causal=True, window_size=window)


@pytest.mark.parametrize(("given", "window"), [(0, (-1, -1)), (1, (0, 0)), (33, (32, 0))])
def test_paged_in_triton_takes_the_window_as_a_number_of_keys(given: int, window: tuple[int, int]) -> None:
    seen: dict[str, Any] = {}
    q, cache, scale = torch.zeros(3, 2, 8), torch.zeros(4, 16, 1, 8), torch.tensor(0.5)
    arguments = (q, q, q, cache, cache, 0.1, q, q, q, 70, None, "auto", "NHD", 3.0, scale, scale, None, 256)
    kernels.paged_in_triton(lambda **options: seen.update(options))(*arguments, 1, given)
    assert seen["window_size"] == window
    assert (seen["softcap"], seen["max_seqlen_k"], seen["k_descale"]) == (3.0, 70, None)
    assert seen["cu_seqlens_q"].tolist() == [0, 1, 2, 3]
    with pytest.raises(Unsupported, match="plain form"):
        kernels.paged_in_triton(lambda **options: None)(*arguments, 2, given)


# -- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shape", "apart"),
    [
        ("packed", None, lambda both: both.transpose(1, 2).split(64, dim=-1)),
        ("interleaved", lambda *n: (n[0], 2, *n[1:]), lambda both: both.unbind(1)),
        ("contiguous", lambda *n: (2, *n), lambda both: both.unbind(0)),
    ],
)
def test_vllm_takes_the_joined_cache_apart_into_what_it_was(
    layout: str, shape: Any, apart: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> None:
    case = Case.parse(f"decode-causal-bf16-b2-q3-h4:2-d64-p16-kv40+21-{layout}-random")
    inputs = make(case)
    backend = SimpleNamespace() if shape is None else SimpleNamespace(get_kv_cache_shape=shape)
    both = caches.joined(case, inputs, backend)
    k, v = apart(both)
    assert torch.equal(k, inputs.k_cache)
    assert torch.equal(v, inputs.v_cache)
    if layout != "contiguous":
        assert both.data_ptr() == inputs.k_cache.data_ptr()
        assert (k.stride(), v.stride()) == (inputs.k_cache.stride(), inputs.v_cache.stride())


def test_a_cache_of_an_unknown_shape_is_declined() -> None:
    case = Case.parse(f"decode-causal-bf16-b2-q3-{SHAPE}-kv40+21-packed-random")
    backend = SimpleNamespace(get_kv_cache_shape=lambda *n: n[::-1])
    with pytest.raises(Unsupported, match=r"KV cache of the shape \(64, 3, 16, 7\)"):
        caches.joined(case, make(case), backend)


def test_a_threshold_becomes_drafted_tokens() -> None:
    case = Case.parse(f"mixed-causal-bf16-b3-q3+20+9-{SHAPE}-kv40+70+9-t3-packed-random")
    assert step._config(case, None).speculative_config.num_speculative_tokens == 2
    alone = Case.parse(f"decode-causal-bf16-b2-q1-{SHAPE}-kv40+21-packed-random")
    assert step._config(alone, None).speculative_config is None
