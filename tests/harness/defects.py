"""Kernels with one defect each, as real ones have had them: the suite must fail every one."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import TORCH_DTYPE, Inputs, queries
from conformance.judge import Verdict, judge
from conformance.rounding import RoundingProfile
from conformance.status import Status
from reference import Attention
from tests.harness import missteps as step
from tests.harness.flash import LOG2E, Fault, Flash, grouped, misread, through


@dataclass(frozen=True)
class Defect:
    """A wrong kernel, the modes in which it can be told from a right one, and what the suite must call it."""

    kernel: Flash
    modes: tuple[str, ...] = ("noncausal", "causal")
    status: Status = Status.MISMATCH
    gives_lse: bool = False  # most must be found by their output alone
    declares_q: bool = True
    seen_by: str = ""  # the case that shows it, where none of the smoke tier can

    def answer(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor | None, RoundingProfile]:
        """Output, lse and declared rounding, as the two AITER kernels have it: the non-causal one rounds q."""
        kernel = self.kernel if case.causal else replace(self.kernel, rounds_q=True)
        out, lse = kernel(case, inputs)
        profile = kernel.profile(case) if self.declares_q else RoundingProfile.flash(case.dtype)
        return out, lse if self.gives_lse else None, profile

    def verdict(self, case: Case, inputs: Inputs, want: Attention) -> Verdict:
        """What the suite says; reading a page that is not there ends a kernel."""
        try:
            out, lse, profile = self.answer(case, inputs)
        except Fault as e:
            return Verdict(Status.ERROR, str(e))
        return judge(case, want, out, lse, profile)


NONCAUSAL, CAUSAL = ("noncausal",), ("causal",)

VISIBILITY = {
    "causal where it should not be": Defect(Flash(causal=lambda _: True), NONCAUSAL),
    "not causal where it should be": Defect(Flash(causal=lambda _: False), CAUSAL),
    "diagonal one key too far right": Defect(Flash(diagonal=lambda n, m: 1), CAUSAL),
    "diagonal one key too far left": Defect(Flash(diagonal=lambda n, m: -1), CAUSAL),
    "diagonal aligned top left": Defect(Flash(diagonal=lambda n, m: m - n), CAUSAL),
    "diagonal of the last query for all": Defect(Flash(diagonal=lambda n, m: m - 1), CAUSAL),
    "window ignored": Defect(Flash(window=lambda case: (-1, -1))),
    "window one key too far left": Defect(Flash(left=1)),
    "window one key short on the left": Defect(Flash(left=-1)),
    "window one key too far right": Defect(Flash(right=1), NONCAUSAL),
    "window one key short on the right": Defect(Flash(right=-1), NONCAUSAL),
    "left side of the window ignored": Defect(Flash(window=lambda case: (-1, case.window[1]))),
    "right side of the window ignored": Defect(Flash(window=lambda case: (case.window[0], -1)), NONCAUSAL),
    "window sides swapped": Defect(Flash(window=lambda case: (case.window[1], case.window[0])), NONCAUSAL),
    "window as much wider as the draft is long": Defect(Flash(window=step.as_wide_as_the_draft)),
}

KEYS = {
    "first key dropped": Defect(Flash(keys=lambda case, n: (min(1, n), n))),
    "last key dropped": Defect(Flash(keys=step.up_to(lambda case, n: n - 1))),
    "stale key past the end counted": Defect(Flash(keys=step.up_to(lambda case, n: n + 1)), NONCAUSAL),
    "tail of the last page counted": Defect(Flash(keys=step.up_to(lambda case, n: n + case.page_size)), NONCAUSAL),
    "tail of the last page multiplied by zero": Defect(Flash(loads_tail=True), status=Status.NONFINITE),
    "last partial page dropped": Defect(Flash(keys=step.up_to(lambda case, n: n // case.page_size * case.page_size))),
    "first page dropped": Defect(Flash(keys=lambda case, n: (min(case.page_size, n), n))),
    "keys past 256 dropped": Defect(Flash(keys=step.up_to(lambda case, n: min(n, 256)))),
    "last tile skipped where it is full": Defect(Flash(keys=step.up_to(step.last_full_tile_skipped))),
    "loop ends with the first query's keys": Defect(Flash(keys=step.up_to(step.keys_of_the_first_query))),
    "first key of a split lost": Defect(Flash(splits=3, cut=step.second_split_starts_late)),
    "first key of a split read twice": Defect(Flash(splits=3, cut=step.second_split_starts_early)),
    "last key of a split lost": Defect(Flash(splits=3, cut=step.first_split_ends_early)),
    "last split lost": Defect(Flash(splits=3, cut=step.last_split_lost)),
    "first split lost": Defect(Flash(splits=3, cut=step.first_split_lost)),
    "length of the neighbour": Defect(Flash(length=lambda case, b: case.seq_lens[b - 1])),
    "longest of the batch for all": Defect(Flash(length=lambda case, b: max(case.seq_lens))),
    "width of the table for the length": Defect(Flash(length=step.room_in_the_table)),
    "bound of the keys for the length": Defect(Flash(length=lambda case, b: case.max_keys or case.seq_lens[b]), CAUSAL),
    "length counted without the draft": Defect(Flash(length=lambda case, b: case.seq_lens[b] + case.query_lens[b])),
}

PAGES = {
    "page read twice": Defect(Flash(table=step.a_page_read_twice)),
    "page left out": Defect(Flash(table=step.a_page_left_out)),
    "pages in physical order": Defect(Flash(table=lambda case, b, table: table[b, : case.pages[b]].sort().values)),
    "neighbour's row of the table": Defect(Flash(table=lambda case, b, table: table[(b + 1) % case.batch])),
    "first row of the table for all": Defect(Flash(table=lambda case, b, table: table[0])),
    "rows of the table taken for as long as needed": Defect(Flash(table=step.rows_without_spare_entries)),
    "page ids of 16 bits": Defect(Flash(table=step.ids_of_16_bits)),
    "page ids of 16 bits and a sign": Defect(Flash(table=step.ids_of_signed_16_bits)),
    "element offsets of 31 bits": Defect(Flash(table=step.offsets_of_31_bits), seen_by=step.HUGE),
    "table entries past the end looked up": Defect(Flash(entries=lambda case, end: 9_999), status=Status.ERROR),
    "one table entry past the end looked up": Defect(
        Flash(entries=lambda case, end: end // case.page_size + 1), status=Status.ERROR
    ),
}

MEMORY = {
    "page stride from the token's, packed": Defect(Flash(caches=step.found_by(step.page_from_token, "packed"))),
    "page stride from the token's, interleaved": Defect(
        Flash(caches=step.found_by(step.page_from_token, "interleaved"))
    ),
    "page stride from the token's, sliced": Defect(Flash(caches=step.found_by(step.page_from_token, "sliced"))),
    "all dense, packed": Defect(Flash(caches=step.found_by(step.dense, "packed"))),
    "all dense, padded": Defect(Flash(caches=step.found_by(step.dense, "padded"))),
    "dense within a page, packed": Defect(Flash(caches=step.found_by(step.dense_pages, "packed"))),
    "dense within a page, padded": Defect(Flash(caches=step.found_by(step.dense_pages, "padded"))),
    "head and token strides swapped": Defect(Flash(caches=step.found_by(step.head_and_token_swapped))),
    "head and token strides swapped, contiguous": Defect(
        Flash(caches=step.found_by(step.head_and_token_swapped, "contiguous"))
    ),
    "V found by the strides of K": Defect(Flash(caches=step.v_found_by_strides_of_k)),
    "storage offset forgotten": Defect(Flash(caches=step.offset_forgotten)),
    "K read for V": Defect(Flash(caches=lambda case, inputs: (inputs.k_cache, inputs.k_cache))),
    "V read for K": Defect(Flash(caches=lambda case, inputs: (inputs.v_cache, inputs.v_cache))),
    "head dim padded with what comes next": Defect(Flash(head_dim=step.next_power_of_two)),
}

HEADS_AND_QUERIES = {
    "query heads interleaved over KV heads": Defect(Flash(kv_head=lambda c: torch.arange(c.q_heads) % c.kv_heads)),
    "KV head off by one": Defect(Flash(kv_head=lambda case: (grouped(case) + 1) % case.kv_heads)),
    "first KV head for all": Defect(Flash(kv_head=lambda case: torch.zeros(case.q_heads, dtype=torch.int64))),
    "ragged batch taken for uniform": Defect(Flash(first_query=step.as_if_uniform)),
    "queries found by the strides of the output": Defect(
        Flash(
            queries=lambda case, inputs: queries(
                case, replace(inputs, q=misread(inputs.q, inputs.q.contiguous().stride()))
            )
        )
    ),
    "queries past 16 lost": Defect(Flash(finish=step.rows_past_16_zero)),
    "dims past 128 lost": Defect(Flash(finish=step.dims_past_128_zero)),
    "output rotated by one dim": Defect(Flash(finish=lambda case, out: out.roll(1, -1))),
    "output by head and query swapped": Defect(Flash(finish=lambda c, out: out.transpose(0, 1).reshape(out.shape))),
    "last row not written": Defect(Flash(finish=step.last_row_unwritten), status=Status.NONFINITE),
    "one NaN": Defect(Flash(finish=step.one_nan), status=Status.NONFINITE),
}

SCORES = {
    "scale 0.5% off": Defect(Flash(scale=lambda case, scale: 1.005 * scale)),
    "scale 2% off": Defect(Flash(scale=lambda case, scale: 1.02 * scale)),
    "scale missing": Defect(Flash(scale=lambda case, scale: 1.0)),
    "scale of the caller ignored": Defect(Flash(scale=lambda case, scale: case.head_dim**-0.5)),
    "scale squared": Defect(Flash(scale=lambda case, scale: scale * scale)),
    "exponentials of base 2 of natural scores": Defect(Flash(scale=lambda case, scale: scale / LOG2E)),
    "scores in bf16": Defect(Flash(round_scores=through(torch.bfloat16))),
    "scores in fp16": Defect(Flash(round_scores=through(torch.float16))),
    "q rounded and not declared": Defect(Flash(rounds_q=True), declares_q=False),
    "softcap ignored": Defect(Flash(softcap=lambda scores, cap: scores), CAUSAL),
    "softcap cuts off": Defect(Flash(softcap=lambda scores, cap: scores.clamp(-cap, cap)), CAUSAL),
    "softcap after the mask": Defect(Flash(masked=lambda c: -c.softcap * LOG2E if c.softcap else -math.inf), CAUSAL),
    "ALiBi ignored": Defect(Flash(slopes=lambda case, slopes: 0 * slopes), CAUSAL),
    "ALiBi of the wrong sign": Defect(Flash(slopes=lambda case, slopes: -slopes), CAUSAL),
    "ALiBi slope of the KV head": Defect(Flash(slopes=lambda case, slopes: slopes[grouped(case)]), CAUSAL),
    "ALiBi from the start of the sequence": Defect(Flash(alibi_origin=lambda stand, n: 0 * stand), CAUSAL),
    # Without a sink a common bias cancels: the lse alone tells.
    "ALiBi from the end of the sequence": Defect(
        Flash(alibi_origin=lambda stand, n: 0 * stand + n - 1), CAUSAL, gives_lse=True
    ),
    "descale of K ignored": Defect(Flash(descales=step.descales(lambda k, v: (None, v))), CAUSAL),
    "descale of K ignored where scores are capped": Defect(
        Flash(descales=step.descales(lambda k, v: (None, v), where=lambda case: case.softcap > 0)), CAUSAL
    ),
    "descale of V ignored": Defect(Flash(descales=step.descales(lambda k, v: (k, None))), CAUSAL),
    "descales swapped": Defect(Flash(descales=step.descales(lambda k, v: (v, k))), CAUSAL),
    "descale of K applied twice": Defect(Flash(descales=step.descales(lambda k, v: (k * k, v))), CAUSAL),
    "descale of V applied twice": Defect(Flash(descales=step.descales(lambda k, v: (k, v * v))), CAUSAL),
    "descale of q ignored": Defect(Flash(queries=lambda case, inputs: inputs.q.to(TORCH_DTYPE[case.dtype]))),
    "descales of the first head for all": Defect(
        Flash(descales=step.descales(lambda k, v: (k[:, :1].expand_as(k), v[:, :1].expand_as(v)))), NONCAUSAL
    ),
    "descales of the first sequence for all": Defect(
        Flash(descales=step.descales(lambda k, v: (k[:1].expand_as(k), v[:1].expand_as(v)))), CAUSAL
    ),
}

SOFTMAX = {
    "exponentials without the row maximum": Defect(
        Flash(maximum=lambda running, tile, first: torch.zeros_like(running)), status=Status.NONFINITE
    ),
    "maximum of the first tile only": Defect(Flash(maximum=step.of_the_first_tile), status=Status.NONFINITE),
    "one maximum for all heads": Defect(Flash(maximum=step.of_all_heads)),
    "accumulator not rescaled": Defect(Flash(rescales=False)),
    "denominator misses the first tile": Defect(Flash(counted=lambda p, first: p * (first > 0))),
    "denominator counts masked keys": Defect(Flash(counts_masked=True)),
    "denominator in bf16": Defect(Flash(counted=lambda p, first: through(torch.bfloat16)(p.sum(-1, keepdim=True)))),
    "splits merged without their weights": Defect(Flash(splits=3, merges_by_weight=False)),
    "weights in fp8": Defect(Flash(round_p=lambda p, _: through(torch.float8_e4m3fn)(p))),
    "weights in the other fp8": Defect(Flash(round_p=lambda p, _: through(torch.float8_e5m2)(p))),
    "weights truncated": Defect(Flash(round_p=lambda p, _: step.truncated(p))),
    "accumulated in bf16": Defect(Flash(accumulate=through(torch.bfloat16))),
    "accumulated in fp16": Defect(Flash(accumulate=through(torch.float16))),
    "sinks ignored": Defect(Flash(sink=lambda case, sinks: None), CAUSAL),
    "sinks ignored where the cache is smaller": Defect(
        Flash(sink=lambda case, sinks: None if case.cache_dtype else sinks * LOG2E), CAUSAL
    ),
    "sinks counted twice": Defect(Flash(sink=lambda case, sinks: sinks * LOG2E + 1), CAUSAL),
    "sinks in base 2": Defect(Flash(sink=lambda case, sinks: sinks), CAUSAL),
    "sinks of the neighbours": Defect(Flash(sink=lambda case, sinks: sinks.roll(1) * LOG2E), CAUSAL),
    "output through bf16": Defect(Flash(finish=lambda case, out: through(torch.bfloat16)(out))),
    "output truncated": Defect(Flash(finish=lambda case, out: step.truncated(out))),
    "lse in base 2": Defect(Flash(lse=lambda maximum, denominator: maximum + denominator.log2()), gives_lse=True),
    "lse without the maximum": Defect(Flash(lse=lambda maximum, denominator: denominator.log()), gives_lse=True),
    "lse without the denominator": Defect(Flash(lse=lambda maximum, _: maximum / LOG2E), gives_lse=True),
}

DEFECTS: dict[str, Defect] = VISIBILITY | KEYS | PAGES | MEMORY | HEADS_AND_QUERIES | SCORES | SOFTMAX
