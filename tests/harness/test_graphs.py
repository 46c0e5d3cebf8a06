"""Graph relations: each fails the defect that it is made for, and no correct kernel. What needs a GPU is emulated."""

import pytest
import torch

from conformance import graphs
from conformance.backends import Backend, load
from conformance.case import BadCase, Case
from conformance.check import Check, of_tier
from conformance.graphs import GRAPHS, GraphRelation
from conformance.judge import Verdict
from conformance.status import Status
from conformance.targets import Target
from tests.harness import replayed

GPU = Target("gpu", "sm_90", torch.device("cpu"))
INTERPRETER = Target("interpreter", "gfx942", torch.device("cpu"))

DRAFTS = "decode-noncausal-bf16-b3-q4-h4:2-d32-p16-kv40+21+5-packed-random"
CAUSAL = "decode-causal-bf16-b4-q8-h4:2-d32-p16-kv40+21+0x2-table8x-packed-random"
CASES = (DRAFTS, CAUSAL)
ON_A_GPU = [name for name in GRAPHS if name.startswith("graph.")]


@pytest.fixture(autouse=True)
def _captured_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "Captured", replayed.Captured)
    monkeypatch.setattr(replayed.Captured, "calls", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))


def verdict_on(name: str, case: str, attend: object, target: Target = GPU) -> Verdict:
    backend = Backend("planted", attend, capturable=True)  # type: ignore[arg-type]
    check = Check.parse(f"{name}/{case}")
    assert isinstance(check.relation, GraphRelation)
    return graphs.related(check.relation, check.case, backend, target)


@pytest.mark.parametrize("name", ON_A_GPU)
@pytest.mark.parametrize("case", CASES)
def test_a_correct_kernel_passes(name: str, case: str) -> None:
    assert verdict_on(name, case, replayed.right).status is Status.PASS


CAUGHT = {
    "graph.replay": [replayed.tires, replayed.writes_nothing_the_second_time],
    "graph.queries": [replayed.holding_fast("q")],
    "graph.cache": [replayed.holding_fast("k_cache"), replayed.holding_fast("v_cache")],
    "graph.table": [replayed.holding_fast("block_table"), replayed.holding_fast("k_cache", "v_cache")],
    "graph.lengths": [replayed.holding_fast("seq_lens"), replayed.never_longer_than_at_capture],
    "graph.batches": [replayed.scratch_of_the_last_capture],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ON_A_GPU)
def test_each_relation_fails_what_it_is_made_for(name: str, case: str) -> None:
    for defect in CAUGHT[name]:
        verdict = verdict_on(name, case, defect)
        assert verdict.status in (Status.MISMATCH, Status.NONFINITE)
        assert verdict.reason.startswith("replayed ")


@pytest.mark.parametrize("name", ON_A_GPU)
def test_a_replay_that_equals_a_wrong_call_is_wrong(name: str) -> None:
    """The oracle has the last word, not the eager call."""
    verdict = verdict_on(name, DRAFTS, replayed.wrong_everywhere)
    assert verdict.status is Status.MISMATCH
    assert "bound" in verdict.reason


def test_what_never_answers_alike_is_nondeterministic() -> None:
    assert verdict_on("graph.queries", DRAFTS, replayed.never_the_same).status is Status.NONDETERMINISTIC


def test_what_cannot_be_captured_is_an_error() -> None:
    verdict = verdict_on("graph.replay", DRAFTS, replayed.cannot_be_captured)
    assert verdict.status is Status.ERROR
    assert "operation not permitted when stream is capturing" in verdict.reason


def test_lengths_go_up_and_down_and_back() -> None:
    case = Case.parse(CAUSAL)
    inputs = graphs.make(graphs._as_long_as_the_longest(case))
    steps = list(graphs._lengths(case, inputs))
    assert [now.seq_lens for _, now in steps] == [(40,) * 4, (8,) * 4, (40, 21, 0, 0)]
    assert inputs.seq_lens.tolist() == [40, 21, 0, 0]


def test_one_query_goes_down_to_one_key() -> None:
    case = Case.parse(DRAFTS.replace("q4", "q1"))
    assert (1, 1, 1) in [now.seq_lens for _, now in graphs._lengths(case, graphs.make(case))]


def test_host_reads_are_found_without_a_gpu() -> None:
    """`right` of these backends reads the lengths, as AITER's kvcache did up to 0.1.15."""
    verdict = verdict_on("host.reads", DRAFTS, replayed.right, INTERPRETER)
    assert verdict.status is Status.ERROR
    assert "host code reads a value of the device: tolist in right (tests/harness/replayed.py:" in verdict.reason
    assert verdict_on("host.reads", DRAFTS, lambda case, inputs: torch.full_like(inputs.q, 0), INTERPRETER).status is (
        Status.PASS
    )


def test_a_backend_that_claims_no_capture_is_not_asked() -> None:
    check = Check.parse(f"graph.replay/{DRAFTS}")
    assert isinstance(check.relation, GraphRelation)
    verdict = graphs.related(check.relation, check.case, load("torch"), GPU)
    assert verdict.status is Status.UNSUPPORTED
    assert "does not claim" in verdict.reason


@pytest.mark.parametrize("name", ON_A_GPU)
def test_only_a_gpu_captures(name: str) -> None:
    verdict = verdict_on(name, DRAFTS, replayed.right, INTERPRETER)
    assert verdict.status is Status.UNSUPPORTED
    check = Check.parse(f"{name}/{DRAFTS}")
    assert check.runs_on("gpu")
    assert not check.runs_on("interpreter")


def test_each_kernel_is_captured_at_each_length_that_is_deployed() -> None:
    smoke = of_tier("smoke")
    for name in GRAPHS:
        cases = [check.case for check in smoke if check.relation is GRAPHS[name]]
        for causal in (True, False):
            lengths = {case.query_lens[0] for case in cases if case.causal is causal}
            assert lengths >= {1, 2, 4, 8, 16, 17}, name
            assert any(0 in case.seq_lens for case in cases if case.causal is causal), name
        split = {case.query_lens[0] for case in cases if case.causal and max(case.seq_lens) > 512}
        assert split >= {1, 2, 8, 16, 17}, name


@pytest.mark.parametrize("case", ["-pages.huge-packed-random", "-packed-needle", "-cache.e4m3fn-packed-random"])
def test_a_relation_that_does_not_apply_is_refused(case: str) -> None:
    with pytest.raises(BadCase, match=r"relation graph\.replay needs sequences that decode, random inputs"):
        Check.parse(f"graph.replay/decode-causal-bf16-b2-q1-h2:2-d32-p16-kv40+21{case}")
