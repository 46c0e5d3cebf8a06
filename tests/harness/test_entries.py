"""AITER's other entries as backends, on kernels written here: what they are handed is what they are made for."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch

from conformance.aiter_entries import Entry
from conformance.aiter_source import AiterNotFound
from conformance.backends import Answer, load, names
from conformance.case import Case
from conformance.execute import exact
from conformance.inputs import make
from conformance.status import Unsupported
from conformance.targets import Target
from tests.harness.plain_entries import KERNELS

TINY = "h4:2-d16-p4"
DECODES = f"b3-q1-{TINY}-kv9+1+17"
DRAFTS = f"b3-q5-{TINY}-kv30+5+9"
RAGGED = f"b3-q1+5+2-{TINY}-kv9+5+21"
IDLE = f"b4-q2+0+1x2-{TINY}-kv7+3+8+20"
BLIND = f"b3-q4-{TINY}-kv0+2+11"
WHOLE = f"b3-q5+1+9-{TINY}-kv5+1+9"
TILES = "b3-q4-h2:2-d16-p4-kv8+4+20"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers a case by a backend whose kernel is the plain one, with queries in float64 for exact comparison."""

    def serve(backend: str, case: Case) -> Answer:
        module = import_module(f"conformance.backends.{backend}")
        monkeypatch.setattr(module._entry, "kernel", KERNELS[backend])
        monkeypatch.setattr(module._entry, "arch", "gfx942")
        monkeypatch.setattr(module._entry, "target_kind", "compile")  # so that lean attention has several programs
        if backend == "aiter_pa_decode":
            monkeypatch.setattr(module, "_compute_type", lambda case: case.dtype)  # Triton's, which may be absent
        inputs = make(case)
        return module.attend(case, replace(inputs, q=inputs.q.double()))

    return serve


SERVED = {
    "aiter_pa_decode": [
        *(f"causal-bf16-{DECODES}{word}" for word in ("", "-alibi", "-max4096", "-scale0.7", "-cache.e4m3fnuz")),
        f"noncausal-bf16-{DECODES}",
    ],
    "aiter_mha": [
        *(f"causal-bf16-{DRAFTS}{word}" for word in ("-w4:inf", "-w4:0", "-alibi", "-sinks", "-alibi-sinks")),
        *(f"{mode}-bf16-{lengths}" for mode in ("causal", "noncausal") for lengths in (DRAFTS, RAGGED, IDLE, BLIND)),
        f"noncausal-bf16-{RAGGED}-w4:inf-sinks-cache.e4m3fn-max4096-scale0.7",
    ],
    "aiter_mha_v3": [
        *(f"{mode}-bf16-{lengths}" for mode in ("causal", "noncausal") for lengths in (DRAFTS, RAGGED, IDLE, BLIND)),
        *(f"noncausal-bf16-{RAGGED}{word}" for word in ("-w4:2", "-winf:3", "-cache.e4m3fnuz", "-max4096-scale0.7")),
    ],
    "aiter_mha_v3_kvcache": [
        *(f"{mode}-bf16-{lengths}" for mode in ("causal", "noncausal") for lengths in (DECODES, DRAFTS, BLIND)),
        *(f"{mode}-bf16-{DRAFTS}-w4:2-scale0.7" for mode in ("causal", "noncausal")),
    ],
    "aiter_chunked_prefill": [
        *(f"causal-bf16-{lengths}" for lengths in (DECODES, DRAFTS, RAGGED, IDLE, WHOLE)),
        *(f"causal-bf16-{RAGGED}{word}" for word in ("-w0:0", "-w4:inf", "-alibi", "-scale0.7", "-cache.e4m3fnuz")),
        f"noncausal-bf16-{DECODES}-w4:2",
    ],
    "aiter_extend": [
        *(f"{mode}-bf16-{lengths}" for mode in ("causal", "noncausal") for lengths in (DECODES, RAGGED, IDLE, WHOLE)),
        f"causal-bf16-{RAGGED}-winf:3-softcap3-table8x-scale0.7",
    ],
    "aiter_prefill": [f"{mode}-bf16-{WHOLE}" for mode in ("causal", "noncausal")],
    "aiter_lean_paged": [
        *(f"noncausal-bf16-{TILES}{word}" for word in ("", "-scale0.7", "-table8x")),
        "causal-bf16-b2-q1-h2:2-d16-p4-kv8+4-winf:0",
    ],
}
LAYOUTS = {"aiter_pa_decode": ("contiguous", "packed", "interleaved", "sliced")}
"""The first is the only one, beside lean attention, that takes strides of K for V's."""
LAYOUTS["aiter_lean_paged"] = LAYOUTS["aiter_pa_decode"]
ANY_LAYOUT = (*LAYOUTS["aiter_pa_decode"], "padded")


def cases(backend: str) -> list[Case]:
    layouts = LAYOUTS.get(backend, ANY_LAYOUT)
    described = [(text, "packed") for text in SERVED[backend]] + [(SERVED[backend][0], layout) for layout in layouts]
    return [Case.parse(f"decode-{text}-{layout}-random") for text, layout in dict.fromkeys(described)]


@pytest.mark.parametrize(
    ("backend", "case"), [(name, case) for name in SERVED for case in cases(name)], ids=lambda x: getattr(x, "id", x)
)
def test_an_entry_is_handed_what_it_is_made_for(served: Any, backend: str, case: Case) -> None:
    answer, want = served(backend, case), exact(case, make(case), sums=False)
    torch.testing.assert_close(answer.out, want.out, rtol=1e-9, atol=1e-12)
    if answer.lse is not None:
        torch.testing.assert_close(answer.lse.double(), want.lse, rtol=1e-5, atol=1e-5)


def test_every_entry_is_tried_here() -> None:
    ours = {name for name in names() if name.startswith("aiter_")}
    assert ours == set(SERVED) == set(KERNELS)
    assert all(load(name).needs_aiter and load(name).prepare is not None for name in ours)


@pytest.mark.parametrize(
    ("backend", "has_lse"), [("aiter_mha", True), ("aiter_mha_v3_kvcache", True), ("aiter_mha_v3", False)]
)
def test_an_lse_is_handed_on_where_there_is_one(served: Any, backend: str, has_lse: bool) -> None:
    answer = served(backend, Case.parse(f"decode-causal-bf16-{DRAFTS}-packed-random"))
    assert (answer.lse is not None) is has_lse


@pytest.mark.parametrize(
    ("backend", "case", "lacking"),
    [
        ("aiter_pa_decode", f"causal-bf16-{DRAFTS}", "no batches of other than one query a sequence"),
        ("aiter_pa_decode", f"causal-bf16-{DECODES}-w4:inf", "no sliding window"),
        ("aiter_pa_decode", f"causal-bf16-{DECODES}-softcap3", "no softcap"),
        ("aiter_pa_decode", f"causal-bf16-{DECODES}-sinks", "no attention sinks"),
        ("aiter_pa_decode", f"causal-bf16-{DECODES}-cache.e4m3fn", "a float8 cache on gfx942 is e4m3fnuz"),
        ("aiter_mha", f"causal-bf16-{DRAFTS}-softcap3", "no softcap"),
        ("aiter_mha", f"noncausal-bf16-{DRAFTS}-alibi", "falls off to both sides"),
        ("aiter_mha_v3", f"causal-bf16-{DRAFTS}-alibi", "no ALiBi"),
        ("aiter_mha_v3", f"causal-bf16-{DRAFTS}-sinks", "no attention sinks"),
        ("aiter_mha_v3_kvcache", f"causal-bf16-{RAGGED}", "no batches with queries of several lengths"),
        ("aiter_mha_v3_kvcache", f"causal-bf16-{DRAFTS}-alibi", "no ALiBi"),
        ("aiter_mha_v3_kvcache", f"causal-bf16-{DRAFTS}-sinks", "no attention sinks"),
        ("aiter_chunked_prefill", f"noncausal-bf16-{DRAFTS}", "no mask but the causal one"),
        ("aiter_chunked_prefill", f"causal-bf16-{DRAFTS}-softcap3", "no softcap"),
        ("aiter_chunked_prefill", f"causal-bf16-{DRAFTS}-sinks", "no attention sinks"),
        ("aiter_chunked_prefill", f"causal-bf16-{DRAFTS}-cache.e4m3fn", "a float8 cache on gfx942 is e4m3fnuz"),
        ("aiter_chunked_prefill", f"causal-bf16-{BLIND}", "more queries than keys"),
        ("aiter_extend", f"causal-bf16-{DRAFTS}-w4:inf", "no sliding window"),
        ("aiter_extend", f"noncausal-bf16-{DRAFTS}-winf:3", "no sliding window"),
        ("aiter_extend", f"causal-bf16-{DRAFTS}-alibi", "no ALiBi"),
        ("aiter_extend", f"causal-bf16-{DRAFTS}-sinks", "no attention sinks"),
        ("aiter_extend", f"causal-bf16-{DRAFTS}-cache.e4m3fnuz", "no descale"),
        ("aiter_extend", f"causal-bf16-{BLIND}", "more queries than keys"),
        ("aiter_prefill", f"causal-bf16-{DRAFTS}", "no context before the queries"),
        ("aiter_prefill", f"causal-bf16-{WHOLE}-scale0.7", "no scale but 1 / sqrt(head dimension)"),
        ("aiter_prefill", f"causal-bf16-{WHOLE}-w4:inf", "no sliding window"),
        ("aiter_prefill", f"causal-bf16-{WHOLE}-softcap3", "no softcap"),
        ("aiter_prefill", f"causal-bf16-{WHOLE}-alibi", "no ALiBi"),
        ("aiter_prefill", f"causal-bf16-{WHOLE}-sinks", "no attention sinks"),
        ("aiter_lean_paged", f"causal-bf16-{TILES}", "no causal mask"),
        ("aiter_lean_paged", "noncausal-bf16-b2-q1+4-h2:2-d16-p4-kv8+4", "no queries of several lengths"),
        ("aiter_lean_paged", "noncausal-bf16-b2-q3-h2:2-d16-p4-kv8+4", "no number of queries but a power of two"),
        ("aiter_lean_paged", "noncausal-bf16-b2-q4-h2:1-d16-p4-kv8+4", "no query heads that share a KV head"),
        ("aiter_lean_paged", "noncausal-bf16-b2-q4-h2:2-d80-p4-kv8+4", "no head dimension but"),
        ("aiter_lean_paged", "noncausal-bf16-b2-q4-h2:2-d16-p12-kv24+12", "no page size but a power of two"),
        ("aiter_lean_paged", "noncausal-bf16-b2-q4-h2:2-d16-p4-kv9+4", "no mask for a last page that is not full"),
        ("aiter_lean_paged", "noncausal-bf16-b2-q4-h2:2-d16-p4-kv8+0", "no sequences without keys"),
        ("aiter_lean_paged", f"noncausal-bf16-{TILES}-winf:3", "no sliding window"),
    ],
)  # fmt: skip
def test_what_an_entry_has_no_parameter_for_is_declined(served: Any, backend: str, case: str, lacking: str) -> None:
    with pytest.raises(Unsupported, match=lacking.replace("(", r"\(").replace(")", r"\)")):
        served(backend, Case.parse(f"decode-{case}-packed-random"))


@pytest.mark.parametrize(
    ("backend", "case", "refusal"),
    [
        ("aiter_mha", f"noncausal-bf16-{DRAFTS}-winf:3", ValueError),
        ("aiter_mha_v3", f"causal-bf16-{DRAFTS}-softcap3", NotImplementedError),
        ("aiter_mha_v3_kvcache", f"causal-bf16-{DRAFTS}-softcap3", NotImplementedError),
    ],
)
def test_what_an_entry_has_a_parameter_for_is_left_to_it(
    served: Any, backend: str, case: str, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        served(backend, Case.parse(f"decode-{case}-packed-random"))


@pytest.mark.parametrize("backend", ["aiter_pa_decode", "aiter_lean_paged"])
def test_strides_that_are_not_alike_are_left_to_an_entry_that_takes_k_s(served: Any, backend: str) -> None:
    with pytest.raises(AssertionError):
        served(backend, Case.parse(f"decode-{SERVED[backend][0]}-padded-random"))


def test_pages_at_no_whole_number_of_rows_are_declined(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.parse(f"decode-causal-bf16-{RAGGED}-contiguous-random")
    module, inputs = import_module("conformance.backends.aiter_extend"), make(case)
    odd = torch.zeros(len(inputs.k_cache), 4 * 32 + 1, dtype=torch.bfloat16)[:, : 4 * 32].unflatten(1, (4, 2, 16))
    with pytest.raises(Unsupported, match="whole number of rows"):
        module.attend(case, replace(inputs, k_cache=odd, v_cache=odd))


def test_an_entry_says_what_it_lacks_before_it_is_prepared() -> None:
    entry = Entry("pa_decode", "paged_attention_decode")
    with pytest.raises(AiterNotFound):
        entry.prepare(None, Target("interpreter", "gfx942", torch.device("cpu")))
    with pytest.raises(RuntimeError, match="paged_attention_decode is called before it was prepared"):
        entry()
