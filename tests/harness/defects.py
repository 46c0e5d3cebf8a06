"""Kernels with one defect each, as real ones have had them: the suite must fail every one."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.status import Status
from tests.harness.flash import Flash, grouped, through


@dataclass(frozen=True)
class Defect:
    """A wrong kernel, the modes in which it can be told from a right one, and what the suite must call it."""

    kernel: Flash
    modes: tuple[str, ...] = ("noncausal", "causal")
    status: Status = Status.MISMATCH
    gives_lse: bool = False  # most must be found by their output alone
    declares_q: bool = True

    def answer(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor | None, RoundingProfile]:
        """Output, lse and declared rounding, as the two AITER kernels have it: the non-causal one rounds q."""
        kernel = self.kernel if case.causal else replace(self.kernel, rounds_q=True)
        out, lse = kernel(case, inputs)
        profile = kernel.profile(case) if self.declares_q else RoundingProfile.flash(case.dtype)
        return out, lse if self.gives_lse else None, profile


def up_to(change: Callable[[Case, int], int]) -> Callable[[Case, int], tuple[int, int]]:
    """Reads the keys before `change(case, n)`, as far as a sequence's pages go."""
    return lambda case, n: (0, min(max(change(case, n), 0), -(-n // case.page_size) * case.page_size))


def a_page_read_twice(case: Case, b: int, table: Tensor) -> Tensor:
    """The second page again where the third should be, or the first where there are but two."""
    row = table[b].clone()
    if case.pages[b] > 1:
        last = min(2, case.pages[b] - 1)
        row[last] = row[last - 1]
    return row


def rows_unwritten(out: Tensor) -> Tensor:
    out = out.clone()
    out[-1] = torch.nan
    return out


def one_nan(out: Tensor) -> Tensor:
    out = out.clone()
    out[len(out) // 2, -1, 3] = torch.nan
    return out


def truncated(x: Tensor) -> Tensor:
    """Cut off to bf16 instead of rounded."""
    return (x.view(torch.int32) & ~0xFFFF).view(torch.float32)


ONLY_NONCAUSAL, ONLY_CAUSAL = ("noncausal",), ("causal",)

DEFECTS: dict[str, Defect] = {
    # what a query sees
    "causal where it should not be": Defect(Flash(causal=lambda _: True), ONLY_NONCAUSAL),
    "not causal where it should be": Defect(Flash(causal=lambda _: False), ONLY_CAUSAL),
    "diagonal one key too far right": Defect(Flash(diagonal=lambda n, m: 1), ONLY_CAUSAL),
    "diagonal one key too far left": Defect(Flash(diagonal=lambda n, m: -1), ONLY_CAUSAL),
    "diagonal aligned top left": Defect(Flash(diagonal=lambda n, m: m - n), ONLY_CAUSAL),
    "window ignored": Defect(Flash(windowed=False)),
    "window one key too far left": Defect(Flash(left=1)),
    "window one key short on the left": Defect(Flash(left=-1)),
    "window one key too far right": Defect(Flash(right=1), ONLY_NONCAUSAL),
    "window one key short on the right": Defect(Flash(right=-1), ONLY_NONCAUSAL),
    # which keys it reads
    "first key dropped": Defect(Flash(keys=lambda case, n: (min(1, n), n))),
    "last key dropped": Defect(Flash(keys=up_to(lambda case, n: n - 1))),
    "stale key past the end counted": Defect(Flash(keys=up_to(lambda case, n: n + 1)), ONLY_NONCAUSAL),
    "tail of the last page counted": Defect(Flash(keys=up_to(lambda case, n: n + case.page_size)), ONLY_NONCAUSAL),
    "tail of the last page multiplied by zero": Defect(Flash(loads_tail=True), status=Status.NONFINITE),
    "last partial page dropped": Defect(Flash(keys=up_to(lambda case, n: n // case.page_size * case.page_size))),
    "first page dropped": Defect(Flash(keys=lambda case, n: (min(case.page_size, n), n))),
    "page read twice": Defect(Flash(table=a_page_read_twice)),
    "keys past 256 dropped": Defect(Flash(keys=up_to(lambda case, n: min(n, 256)))),
    "pages in physical order": Defect(Flash(table=lambda case, b, table: table[b, : case.pages[b]].sort().values)),
    "neighbour's row of the table": Defect(Flash(table=lambda case, b, table: table[(b + 1) % case.batch])),
    # which heads
    "query heads interleaved over KV heads": Defect(Flash(kv_head=lambda c: torch.arange(c.q_heads) % c.kv_heads)),
    "KV head off by one": Defect(Flash(kv_head=lambda case: (grouped(case) + 1) % case.kv_heads)),
    "first KV head for all": Defect(Flash(kv_head=lambda case: torch.zeros(case.q_heads, dtype=torch.int64))),
    "K read for V": Defect(Flash(k_for_v=True)),
    "output rotated by one dim": Defect(Flash(finish=lambda out: out.roll(1, -1))),
    # arithmetic
    "scale 0.5% off": Defect(Flash(scale=lambda scale: 1.005 * scale)),
    "scale 2% off": Defect(Flash(scale=lambda scale: 1.02 * scale)),
    "scale missing": Defect(Flash(scale=lambda scale: 1.0)),
    "scale squared": Defect(Flash(scale=lambda scale: scale * scale)),
    "accumulator not rescaled": Defect(Flash(rescales=False)),
    "splits merged without their weights": Defect(Flash(splits=3, merges_by_weight=False)),
    "weights in fp8": Defect(Flash(round_p=through(torch.float8_e4m3fn))),
    "weights truncated": Defect(Flash(round_p=truncated)),
    "accumulated in bf16": Defect(Flash(accumulate=through(torch.bfloat16))),
    "accumulated in fp16": Defect(Flash(accumulate=through(torch.float16))),
    "output through bf16": Defect(Flash(finish=through(torch.bfloat16))),
    "output truncated": Defect(Flash(finish=truncated)),
    "q rounded and not declared": Defect(Flash(rounds_q=True), declares_q=False),
    "lse in base 2": Defect(Flash(lse_base=2.0), gives_lse=True),
    # what it forgets
    "softcap ignored": Defect(Flash(forgets=frozenset({"softcap"})), ONLY_CAUSAL),
    "ALiBi ignored": Defect(Flash(forgets=frozenset({"alibi"})), ONLY_CAUSAL),
    "sinks ignored": Defect(Flash(forgets=frozenset({"sinks"})), ONLY_CAUSAL),
    "last row not written": Defect(Flash(finish=rows_unwritten), status=Status.NONFINITE),
    "one NaN": Defect(Flash(finish=one_nan), status=Status.NONFINITE),
}
