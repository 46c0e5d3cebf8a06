"""A failing needle case names the key that was read, and the one that should have been."""

from dataclasses import replace

import pytest
import torch

from conformance.backends import Backend
from conformance.case import Case
from conformance.evidence import key_read
from conformance.execute import exact, run
from conformance.failure import text
from conformance.inputs import make
from conformance.judge import Verdict, judge
from conformance.status import Status
from conformance.targets import Target
from tests.harness.flash import Flash

NEEDLE = Case.parse("decode-causal-bf16-b3-q8-h8:2-d64-p16-kv200+77+40-packed-needle")


def evidence(case: Case, kernel: Flash, sequence: int) -> str:
    """What a kernel's output says, where only one sequence of it is wrong."""
    inputs = make(case)
    want = exact(case, inputs)
    out = want.out.to(inputs.q.dtype)
    rows = slice(case.query_starts[sequence], case.query_starts[sequence + 1])
    out[rows] = kernel(case, inputs)[0][rows]
    verdict = judge(case, want, out, None, kernel.profile(case))
    assert verdict.status is Status.MISMATCH
    return key_read(case, inputs, out, want.out, verdict)


def reading(case: Case, place: tuple[int, int, int], part: float = 1.0) -> str:
    """What it says of an output whose last query reads V at (page, row, KV head), for its last head."""
    inputs = make(case)
    want = exact(case, inputs)
    out = want.out.to(inputs.q.dtype)
    descale = 1.0 if inputs.v_descale is None else float(inputs.v_descale[0, 0])
    out[-1, -1] = (inputs.v_cache[place].float() * descale * part).to(out.dtype)
    return key_read(case, inputs, out, want.out, judge(case, want, out))


@pytest.mark.parametrize("rest", ["packed", "pages.shared-sliced", "cache.e4m3fn-padded", "pages.high-contiguous"])
def test_a_row_of_v_is_traced_to_its_key(rest: str) -> None:
    """Sequence 2 of 3 has 40 keys on 3 pages; its last row is 39, and rows up to 47 are stale."""
    case = Case.parse(f"decode-causal-bf16-b3-q8-h8:2-d64-p16-kv200+77+40-{rest}-needle")
    pages = make(case).block_table.tolist()
    assert reading(case, (pages[2][1], 3, 0)).startswith("reads key 19 of sequence 2, KV head 0, instead of ")
    assert reading(case, (pages[2][2], 9, 1)).startswith("reads key 41 of sequence 2, KV head 1, instead of ")
    assert reading(case, (pages[0][11], 0, 1)).startswith("reads key 176 of sequence 0, KV head 1, instead of ")
    assert reading(case, (pages[2][1], 3, 0), 0.6).startswith("reads 60% of key 19 of sequence 2, KV head 0, instead ")


def test_a_page_that_is_no_sequences_is_named_by_its_id() -> None:
    assert reading(NEEDLE, (0, 5, 1)).startswith(
        "reads row 5 of page 0, which is no sequence's, KV head 1, instead of "
    )


def test_a_key_that_must_not_be_seen_is_named() -> None:
    """Sequence 1 has 77 keys, and its pages hold 80."""
    kernel = Flash(keys=lambda case, n: (0, -(-n // 16) * 16))
    assert evidence(replace(NEEDLE, causal=False), kernel, 1).startswith("reads key 77 of sequence 1")


def test_where_k_is_read_elsewhere_the_key_that_was_due_is_named() -> None:
    kernel = Flash(table=lambda case, b, table: table[(b + 1) % case.batch])
    assert " of sequence 1, KV head" in evidence(NEEDLE, kernel, 1).partition(", instead of ")[2]


def test_rows_that_err_alike_are_counted() -> None:
    """Every query answers for its neighbour's needle: the V of the key after the one that is due."""
    inputs = make(NEEDLE)
    want = exact(NEEDLE, inputs)
    out = want.out.to(inputs.q.dtype)
    keys = (
        inputs.v_cache[inputs.block_table[0, :13].long()].flatten(0, 1)[:, :, None].expand(-1, -1, 4, -1).flatten(1, 2)
    )
    for token in range(8):
        for head in range(8):
            away = (keys[:-1, head].double() - want.out[token, head]).norm(dim=1)
            if float(away.min()) < 0.1:
                out[token, head] = keys[int(away.argmin()) + 1, head]
    said = key_read(NEEDLE, inputs, out, want.out, judge(NEEDLE, want, out))
    wrong = int((out != want.out.to(out.dtype)).any(-1).sum())
    assert wrong > 20
    assert said.endswith(f"; {wrong} wrong rows are +1 keys off")


def test_an_output_that_is_no_key_says_so() -> None:
    """The last row's needle is key 37: what is none of the keys, a zero included, is said to be none."""
    inputs = make(NEEDLE)
    want = exact(NEEDLE, inputs)
    for other in (torch.randn(64, generator=torch.Generator().manual_seed(0)), torch.zeros(64)):
        out = want.out.to(inputs.q.dtype)
        out[20, 6] = other.to(out.dtype)
        said = key_read(NEEDLE, inputs, out, want.out, judge(NEEDLE, want, out))
        assert said.startswith("reads no single key, instead of key ")


def test_only_needles_name_keys() -> None:
    case = replace(NEEDLE, regime="random")
    inputs = make(case)
    want = exact(case, inputs)
    out = (want.out + 1).to(inputs.q.dtype)
    assert key_read(case, inputs, out, want.out, judge(case, want, out)) == ""


def test_the_report_shows_it() -> None:
    kernel = Flash(kv_head=lambda case: torch.zeros(case.q_heads, dtype=torch.int64))
    verdict = run(NEEDLE, Backend("wrong", kernel), Target("cpu", "cpu", torch.device("cpu")))
    lines = text(NEEDLE, verdict, "wrong", "cpu", "again").splitlines()
    assert lines[-2] == f"  key     {verdict.evidence}"
    assert ", instead of key " in lines[-2]
    assert lines[-2].endswith(", KV head 1")
    assert "  key " not in text(NEEDLE, Verdict(Status.MISMATCH), "wrong", "cpu", "again")
