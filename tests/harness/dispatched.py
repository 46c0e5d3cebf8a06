"""Batches for the dispatch, and what it answers on kernels written here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.case import Case
from conformance.dispatch import (
    AttentionLayer,
    AttentionMetadata,
    Dispatched,
    MetadataBuilder,
    ScheduledBatch,
    forward,
)
from conformance.execute import exact
from conformance.inputs import TORCH_DTYPE, Inputs, make
from tests.harness.dispatch_kernels import Kernels


def no_kernel(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        pytest.fail(f"{name} was called")

    return call


def scheduled(case: Case, inputs: Inputs, *, on_host: bool = True) -> ScheduledBatch:
    return ScheduledBatch(
        query_start_loc=inputs.query_start_loc,
        seq_lens=inputs.seq_lens,
        block_table=inputs.block_table,
        num_actual_tokens=case.tokens,
        max_query_len=max(case.query_lens),
        max_seq_len=case.key_bound,
        causal=case.causal,
        query_lens_on_host=case.query_lens if on_host else None,
        seq_lens_on_host=case.seq_lens if on_host else None,
    )


def built(case: Case, inputs: Inputs, *, for_drafting: bool = False, trims: bool = False) -> AttentionMetadata:
    builder = MetadataBuilder(
        decode_threshold=case.decode_threshold or max(case.query_lens),
        context_chunk=case.chunk,
        window_left=case.window[0],
        page_size=case.page_size if trims else 0,
    )
    if for_drafting:
        return builder.build_for_drafting(scheduled(case, inputs, on_host=False))
    return builder.build(scheduled(case, inputs))


def layer_of(case: Case, inputs: Inputs) -> AttentionLayer:
    return AttentionLayer(
        scale=inputs.scale,
        window=case.window,
        softcap=case.softcap,
        alibi_slopes=inputs.alibi_slopes,
        sinks=inputs.sinks,
        q_descale=inputs.q_descale,
        several_descales=case.several_descales,
        out_dtype=TORCH_DTYPE[case.dtype] if case.q_dtype else None,
        k_descale=inputs.k_descale,
        v_descale=inputs.v_descale,
    )


def served(case: Case, kernels: Kernels, *, for_drafting: bool = False, q: Tensor | None = None) -> Dispatched:
    inputs = make(case)
    q = inputs.q.double() if q is None else q  # so that the kernels here store float64, and can be compared exactly
    metadata = built(case, inputs, for_drafting=for_drafting, trims="paged" in kernels.offers)
    key, value = (None if new is None else new.to(q.dtype) for new in (inputs.key, inputs.value))
    return forward(
        layer_of(case, inputs), metadata, q, inputs.k_cache, inputs.v_cache, key=key, value=value, load=kernels.load
    )


def assert_exact(case: Case, done: Dispatched) -> None:
    """As far as float64 goes, or float32 where parts were merged."""
    want = exact(case, make(case), sums=False)
    merges = any(path.startswith("extend.") and "window" not in path for path in done.path.split("+"))
    rtol, atol = (1e-5, 1e-5) if merges else (1e-9, 1e-12)
    torch.testing.assert_close(done.out.double(), want.out, rtol=rtol, atol=atol)
    if done.lse is not None:
        torch.testing.assert_close(done.lse.double(), want.lse, rtol=1e-5, atol=1e-5)


WINDOWS = ((-1, -1), (5, -1), (-1, 3), (4, 2), (0, 0), (7, 0))

UNIFORM = {"one token": "b3-q1-h4:2-d16-p4-kv9+1+17", "drafts": "b3-q5-h4:2-d16-p4-kv30+5+9"}
RAGGED = {
    "ragged": "b3-q1+5+2-h4:2-d16-p4-kv9+5+21",
    "ragged with an idle sequence": "b4-q2+0+1x2-h2:2-d16-p8-kv7+3+8+20",
}
DRAFTS = UNIFORM | {"nothing to see": "b3-q4-h2:1-d16-p4-kv0+2+11"}
EDGES = {"nothing to see": "b3-q4-h2:1-d16-p4-kv0+2+11", "ragged, nothing to see": "b3-q4+1+2-h2:1-d16-p4-kv0+2+1"}


def case_of(
    mode: str, lengths: str, window: tuple[int, int] = (-1, -1), extra: str = "", threshold: int = 0, chunk: int = 0
) -> Case:
    """A chunk is left out where the case takes none: with a window on the left, and where no sequence extends."""
    plain = Case.parse(f"decode-{mode}-bf16-{lengths}{extra}-packed-random")
    step = replace(plain, window=plain.window if max(window) < 0 else window, decode_threshold=threshold)
    return replace(step, chunk=chunk) if step.takes_chunks else step
