"""The oracle against dense float64 attention on the same pages: time and memory, side by side in one process."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from conformance.case import Case
from conformance.execute import exact
from conformance.inputs import Inputs, make
from conformance.targets import TargetError
from reference.visibility import diagonal, visible

CASES = tuple(
    map(
        Case.parse,
        (
            "decode-noncausal-bf16-b4-q16-h32:8-d128-p16-kv1000-packed-random",
            "decode-causal-bf16-b4-q16-h32:8-d128-p16-kv1000-packed-random",
            "decode-causal-bf16-b8-q1-h32:8-d128-p16-kv4096-packed-random",
            "decode-noncausal-bf16-b1-q16-h64:8-d128-p16-kv8192-packed-random",
            "decode-causal-fp16-b2-q128-h32:32-d128-p64-kv1024-contiguous-random",
            "decode-noncausal-bf16-b1-q16-h64:8-d128-p16-kv32768-packed-random",
        ),
    )
)
"""Uniform batches, since dense attention has no other: GQA 4, 8 and none; one token, drafts, and a long context."""

REPEATS = 5


def table(device_name: str | None = None) -> Iterator[str]:
    """Lines of a markdown table; a ratio is the oracle's time over dense attention's, each the best of several.

    On cpu, cuda or cuda:N; on the GPU where none is named and there is one. Raises TargetError.
    """
    device = _device(device_name if device_name is not None else "cuda" if torch.cuda.is_available() else "cpu")
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    yield f"oracle against dense float64 scaled_dot_product_attention, {what}, torch {torch.__version__}"
    yield ""
    yield "| case | dense ms | out alone | with all sums | dense MiB | out MiB | with sums MiB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for case in CASES:
        inputs = make(case).to(device)
        contenders: tuple[Callable[[], object], ...] = (
            lambda inputs=inputs, case=case: dense(case, inputs),
            lambda inputs=inputs, case=case: exact(case, inputs, sums=False),
            lambda inputs=inputs, case=case: exact(case, inputs, sums=True),
        )
        difference = float((exact(case, inputs, sums=False).out - dense(case, inputs)).abs().max())
        if not difference < 1e-12:
            raise AssertionError(f"the oracle and dense attention differ by {difference} on {case.id}")
        best = _best_times(contenders, device)
        with _freed_memory_returned(device):
            peaks = [_peak_bytes(run, device) / 2**20 for run in contenders]
        yield (
            f"| {case.id} | {best[0] * 1e3:.1f} | {best[1] / best[0]:.2f}x | {best[2] / best[0]:.2f}x | "
            + " | ".join(f"{peak:.0f}" for peak in peaks)
            + " |"
        )


def _device(name: str) -> torch.device:
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise TargetError(f"there is no device {name!r}: choose cpu, cuda or cuda:N")
    if name != "cpu" and not int(match[1] or 0) < torch.cuda.device_count():
        raise TargetError(f"there is no device {name}: torch sees {torch.cuda.device_count()} GPUs")
    return torch.device(name)


def dense(case: Case, inputs: Inputs) -> Tensor:
    """Attention of a uniform batch the plain way: gather all pages, widen, one call. [T, Hq, D] float64."""
    n, m = case.seq_lens[0], case.query_lens[0]
    pages = inputs.block_table[:, : case.pages[0]].long()
    k, v = (c[pages].flatten(1, 2)[:, :n].transpose(1, 2).double() for c in (inputs.k_cache, inputs.v_cache))
    q = inputs.q.unflatten(0, (-1, m)).transpose(1, 2).double()
    mask = None
    if case.causal:
        lens, counts = inputs.seq_lens.long(), torch.full_like(inputs.seq_lens, m)
        stand = diagonal(counts, lens, m)
        mask = visible(stand, lens, torch.arange(n, device=q.device), causal=True)[:, None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=inputs.scale, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)


def _best_times(contenders: tuple[Callable[[], object], ...], device: torch.device) -> list[float]:
    """Seconds of each, the best of several, in turns so that a busy machine disturbs all alike."""
    best = [float("inf")] * len(contenders)
    for _ in range(REPEATS + 1):  # the first round warms up
        for index, run in enumerate(contenders):
            _synchronise(device)
            started = perf_counter()
            run()
            _synchronise(device)
            best[index] = min(best[index], perf_counter() - started)
    return best


@contextmanager
def _freed_memory_returned(device: torch.device) -> Iterator[None]:
    """Makes glibc give large blocks back at once, so that a peak shows; costs time, so not while that is measured."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    threshold, small, usual = (
        -3,
        2**16,
        32 * 2**20,
    )  # M_MMAP_THRESHOLD: blocks from that size on are mapped on their own
    if mallopt is None:
        yield
        return
    mallopt(threshold, small)
    try:
        yield
    finally:
        mallopt(threshold, usual)


def _peak_bytes(run: Callable[[], object], device: torch.device) -> float:
    """Most memory in use during a run beyond what was in use before it; NaN where the system does not say."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak that VmHWM reports (Linux)
        before = _status_bytes("VmRSS")
        run()
        return _status_bytes("VmHWM") - before
    except OSError:
        return float("nan")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
