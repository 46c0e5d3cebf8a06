"""Kernels that break a relation, one by one: each is called what it is."""

from collections.abc import Callable
from itertools import count

import pytest
import torch
from torch import Tensor

from conformance.backends import Backend
from conformance.case import Case
from conformance.check import Check
from conformance.execute import run
from conformance.failure import text
from conformance.inputs import Inputs
from conformance.judge import Verdict
from conformance.relate import relate
from conformance.relations import RELATIONS, Relation
from conformance.status import Status, Unsupported
from conformance.targets import Target
from tests.harness import answers
from tests.harness.flash import LOG2E, Flash
from tests.harness.missteps import second_split_starts_late

CPU = Target("cpu", "cpu", torch.device("cpu"))

Attend = Callable[[Case, Inputs], object]

DRAFT = "decode-noncausal-bf16-b3-q4-h2:1-d16-p16-kv48+20+37-table2x-packed-random"
CAUSAL = "decode-causal-bf16-b3-q4-h2:1-d16-p16-kv48+20+37-table2x-packed-random"
SINGLE = "decode-noncausal-bf16-b2-q1-h2:1-d16-p16-kv40+21-packed-random"


def verdict_on(relation: str, case: str, attend: object) -> Verdict:
    check = Check.parse(f"{relation}/{case}")
    assert isinstance(check.relation, Relation)
    return relate(check.relation, check.case, Backend("planted", attend), CPU)  # pyright: ignore[reportArgumentType]


def in_physical_order(case: Case, inputs: Inputs) -> Tensor:
    """Whole pages are summed in the order of their ids: right but for rounding, but the ids decide what comes out."""
    kernel = Flash(tile=16, table=lambda case, b, table: torch.cat([
        table[b, : case.seq_lens[b] // case.page_size].sort().values, table[b, case.seq_lens[b] // case.page_size :]
    ]))  # fmt: skip
    return kernel(case, inputs)[0]


def small_page_ids(case: Case, inputs: Inputs) -> Tensor:
    return Flash(table=lambda case, b, table: table[b] & 3)(case, inputs)[0]


def reads_ahead(case: Case, inputs: Inputs) -> Tensor:
    """Loads the page after the last one, as the table names it, and gives it no weight."""
    page = inputs.block_table[:, case.pages[0]].long()
    return Flash()(case, inputs)[0] + 0 * inputs.v_cache[page].sum()


def gathers_the_whole_table(case: Case, inputs: Inputs) -> Tensor:
    return Flash()(case, inputs)[0] + 0 * inputs.v_cache[inputs.block_table.long()].sum()


def length_from_the_table(case: Case, inputs: Inputs) -> Tensor:
    """Believes that a sequence has as many pages as entries other than the padding's."""
    entries = int((inputs.block_table > 0).sum())
    return Flash(scale=lambda _, scale: scale * (1 + entries / 100))(case, inputs)[0]


def one_key_too_many(case: Case, inputs: Inputs) -> Tensor:
    return Flash(keys=lambda case, n: (0, n + 1 if n % case.page_size else n))(case, inputs)[0]


def neighbours_row(case: Case, inputs: Inputs) -> Tensor:
    return Flash(table=lambda case, b, table: table[(b + 1) % case.batch])(case, inputs)[0]


def last_partial_page_dropped(case: Case, inputs: Inputs) -> Tensor:
    return Flash(keys=lambda case, n: (0, n // case.page_size * case.page_size))(case, inputs)[0]


def lse_in_base_2_where_causal(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    out, lse = Flash()(case, inputs)
    return out, lse * LOG2E if case.causal else lse


def lse_of_physical_order(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    out, lse = Flash()(case, inputs)
    return out, lse + 1e-6 * inputs.block_table[0, 0]


_calls = count()


def differs_from_call_to_call(case: Case, inputs: Inputs) -> Tensor:
    return Flash()(case, inputs)[0] * (1 + next(_calls) / 256)


def declines_causal(case: Case, inputs: Inputs) -> Tensor:
    if case.causal:
        raise Unsupported("no causal kernel here")
    return answers.right(case, inputs)


def refuses_pages_of_64(case: Case, inputs: Inputs) -> Tensor:
    if case.page_size == 64:
        raise AssertionError("TILE_SIZE needs to be divisible")
    return answers.right(case, inputs)


def loses_a_key_of_many(case: Case, inputs: Inputs) -> Tensor:
    """Cuts the keys where there may be many, and loses one at a cut."""
    kernel = Flash(tile=16, splits=3, cut=second_split_starts_late) if case.key_bound > 512 else Flash()
    return kernel(case, inputs)[0]


def few_heads(case: Case, inputs: Inputs) -> Tensor:
    """Of a batch of more than three only the first head."""
    return answers.right(case, inputs)[:, : 1 if case.batch > 3 else None]


def flash(**defect: object) -> Attend:
    return lambda case, inputs: Flash(**defect)(case, inputs)[0]  # pyright: ignore[reportArgumentType]


PLANTED: dict[str, tuple[str, str, Attend, Status, str]] = {
    "page ids cut off": ("pages.renamed", DRAFT, small_page_ids, Status.MISMATCH, "have other bits, by up to"),
    "pages in physical order": ("pages.renamed", DRAFT, in_physical_order, Status.MISMATCH, "elements of out"),
    "lse from a page id": ("pages.renamed", DRAFT, lse_of_physical_order, Status.MISMATCH, "elements of lse"),
    "page read ahead": ("poison.pages", DRAFT, reads_ahead, Status.NONFINITE, "in the second answer, "),
    "tail times zero": ("poison.tails", DRAFT, flash(loads_tail=True), Status.NONFINITE, "in the second answer, "),
    "stale key counted": ("poison.garbage", DRAFT, one_key_too_many, Status.MISMATCH, "have other bits"),
    "whole table gathered": ("poison.table", DRAFT, gathers_the_whole_table, Status.ERROR, "in the second call, Index"),
    "unused entries counted": ("poison.table", DRAFT, length_from_the_table, Status.MISMATCH, "have other bits"),
    "neighbour's row": ("batch.permuted", DRAFT, neighbours_row, Status.MISMATCH, "have other bits"),
    "random": ("repeated", DRAFT, differs_from_call_to_call, Status.NONDETERMINISTIC, "has another answer too"),
    "random, seen elsewhere": (
        "batch.permuted", DRAFT, differs_from_call_to_call, Status.NONDETERMINISTIC, "has another answer too",
    ),
    "changes its inputs": ("repeated", DRAFT, answers.doubles_q_in_place, Status.MISMATCH, "changed its inputs"),
    "single causal query one key short": (
        "single.query", SINGLE, flash(diagonal=lambda n, m: -1), Status.MISMATCH, "an element exceeds its error bound",
    ),
    "lse of another base": (
        "single.query", SINGLE, lse_in_base_2_where_causal, Status.MISMATCH, "an lse exceeds its error bound",
    ),
    "diagonal aligned top left": (
        "draft.unrolled", CAUSAL, flash(diagonal=lambda n, m: m - n), Status.MISMATCH, "an element exceeds its",
    ),
    "last partial page dropped": (
        "pages.resized", DRAFT, last_partial_page_dropped, Status.MISMATCH, "an element exceeds its error bound",
    ),
    "key lost where the bound asks for splits": (
        "keys.bounded", CAUSAL, loses_a_key_of_many, Status.MISMATCH, "an element exceeds its error bound",
    ),
    "weights that sum to 1.005": (
        "values.shifted", DRAFT, flash(finish=lambda _, out: 1.005 * out), Status.MISMATCH, "exceeds its error bound",
    ),
    "accumulator not rescaled": (
        "values.shifted", DRAFT, flash(tile=16, rescales=False), Status.MISMATCH, "exceeds its error bound",
    ),
    "declined in the second call": ("single.query", SINGLE, declines_causal, Status.UNSUPPORTED, "no causal kernel"),
    "declined": ("repeated", DRAFT, answers.declines, Status.UNSUPPORTED, "no kernel has what this case asks"),
    "refused in the second call": ("pages.resized", DRAFT, refuses_pages_of_64, Status.ERROR, "in the second call, As"),
    "raises": ("pages.renamed", DRAFT, answers.raises, Status.ERROR, "in the first call, RuntimeError: the first line"),
    "leaves": ("pages.renamed", DRAFT, answers.leaves, Status.ERROR, "in the first call, SystemExit"),
    "out of memory": ("pages.renamed", DRAFT, answers.out_of_memory, Status.RESOURCE, "in the first call, MemoryError"),
    "unwritten": ("repeated", DRAFT, answers.unwritten, Status.NONFINITE, "in the first answer, "),
    "wrong shape": ("repeated", DRAFT, answers.wrong_shape, Status.MALFORMED, "in the first answer, output has shape"),
    "wrong shape in the second call": ("draft.unrolled", CAUSAL, few_heads, Status.MALFORMED, "in the second answer, "),
    "wrong dtype": ("values.shifted", DRAFT, answers.wrong_dtype, Status.MALFORMED, "in the first answer, output is"),
}  # fmt: skip


@pytest.mark.parametrize("defect", PLANTED)
def test_what_breaks_a_relation_has_its_status(defect: str) -> None:
    relation, case, attend, status, reason = PLANTED[defect]
    verdict = verdict_on(relation, case, attend)
    assert verdict.status is status, verdict
    assert reason in verdict.reason


def test_a_relation_finds_what_no_tolerance_can() -> None:
    """Page ids decide in which order a sum is rounded: every answer is within its bounds, but depends on them."""
    assert run(Case.parse(DRAFT), Backend("planted", in_physical_order), CPU).status is Status.PASS


def test_every_relation_is_seen_to_fail() -> None:
    failed = {relation for relation, _, _, status, _ in PLANTED.values() if not status.conformant}
    assert failed == set(RELATIONS)


def test_a_user_who_interrupts_is_not_a_defect() -> None:
    def interrupted(case: Case, inputs: Inputs) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict_on("repeated", DRAFT, interrupted)


def test_a_failure_says_what_was_compared_with_what() -> None:
    check = Check.parse(f"pages.resized/{DRAFT}")
    verdict = verdict_on("pages.resized", DRAFT, last_partial_page_dropped)
    said = text(check.case, verdict, "aiter 1", "cpu", f"repro --case {check.id}", check.relation).splitlines()
    assert said[0] == f"MISMATCH  aiter 1 (cpu)   {check.id}"
    assert (
        said[2]
        == "  against the same keys in pages of another size: the answers must be equal but for what both may err by"
    )
    assert ", the other " in said[3]
    assert "x bound" in said[3]
    assert said[-1] == f"  repro   repro --case {check.id}"
