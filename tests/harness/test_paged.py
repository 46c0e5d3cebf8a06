"""Single tokens on a ROCm build: its paged attention, on a table trimmed to the window, or `unified_attention`."""

import pytest
import torch

from conformance.case import Case
from conformance.dispatch import Dispatched
from conformance.execute import exact
from conformance.inputs import make
from conformance.judge import judge
from conformance.status import Status, Unsupported
from tests.harness.dispatch_kernels import ROCM, Kernels
from tests.harness.dispatched import case_of, served

SINGLE = "b3-q1-h4:2-d64-p16-kv70+1+33"


def judged(case: Case, kernels: Kernels, *, for_drafting: bool = False) -> tuple[Dispatched, Status]:
    inputs = make(case)
    done = served(case, kernels, q=inputs.q, for_drafting=for_drafting)
    return done, judge(case, exact(case, inputs), done.out).status


@pytest.mark.parametrize("for_drafting", [False, True])
@pytest.mark.parametrize("left", [-1, 0, 1, 14, 15, 16, 17, 31, 32, 33, 68, 69, 70, 500])
def test_single_tokens_are_paged_on_a_table_trimmed_to_the_window(left: int, for_drafting: bool) -> None:
    case, kernels = case_of("causal", SINGLE, (left, -1)), Kernels(ROCM)
    done, status = judged(case, kernels, for_drafting=for_drafting)
    assert done.path == ("paged" if left < 0 else "paged.trimmed")
    assert status is Status.PASS
    again, _ = judged(case, Kernels())
    assert again.path == "unified"
    torch.testing.assert_close(done.out, again.out, rtol=0, atol=0)


@pytest.mark.parametrize("left", [0, 20, 40])
def test_a_trimmed_table_holds_no_page_outside_the_window(left: int) -> None:
    kernels = Kernels(ROCM)
    judged(case_of("causal", SINGLE, (left, -1)), kernels)
    ((_, call),) = kernels.called
    first = [max(0, n - 1 - left) // 16 for n in (70, 1, 33)]
    assert call["context_lens"].tolist() == [n - 16 * page for n, page in zip((70, 1, 33), first, strict=True)]
    assert call["block_tables"].shape[1] == -(-min(70, left + 16) // 16)
    assert call["sliding_window"] == left + 1


@pytest.mark.parametrize("feature", ["-softcap3", "-alibi", "-w20:inf-softcap3-alibi", "-cache.e4m3fnuz", "-max4096"])
def test_paged_attention_has_it(feature: str) -> None:
    done, status = judged(Case.parse(f"decode-causal-bf16-{SINGLE}{feature}-packed-random"), Kernels(ROCM))
    assert done.path.startswith("paged")
    assert status is Status.PASS


@pytest.mark.parametrize(
    "case",
    [
        f"decode-causal-bf16-{SINGLE}-sinks-packed-random",
        f"decode-causal-bf16-{SINGLE}-cache.e5m2-packed-random",
        "decode-causal-bf16-b3-q1-h4:2-d32-p16-kv70+1+33-packed-random",
        "decode-causal-bf16-b3-q1-h4:2-d64-p48-kv70+1+33-packed-random",
        "decode-causal-bf16-b3-q2-h4:2-d64-p16-kv70+1+33-packed-random",
    ],
)
def test_what_paged_attention_lacks_goes_to_unified_attention(case: str) -> None:
    done, status = judged(Case.parse(case), Kernels(ROCM))
    assert done.path == "unified"
    assert status is Status.PASS


def test_single_tokens_beside_an_idle_sequence_go_to_neither() -> None:
    """Both take row i for the query of sequence i."""
    kernels = Kernels(ROCM)
    with pytest.raises(Unsupported, match=r"^unified_attention takes row i"):
        judged(Case.parse("decode-causal-bf16-b3-q0+1x2-h4:2-d64-p16-kv70+1+33-packed-random"), kernels)
    assert kernels.called == []
