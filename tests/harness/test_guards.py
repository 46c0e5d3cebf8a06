"""Guard rows: a kernel that writes one row too many is failed on every path that gives it an output."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance import guards, host_reads
from conformance.backends import Answer, Backend, aiter
from conformance.case import Case
from conformance.execute import run
from conformance.graphs import Captured, Inputs
from conformance.guards import Guarded, WroteOutside
from conformance.judge import Verdict
from conformance.status import Status, Unsupported
from conformance.targets import Target
from tests.harness import answers
from tests.harness.dispatch_kernels import KERNELS
from tests.harness.plain_entries import KERNELS as ENTRIES

INTERPRETER = Target("interpreter", "gfx942", torch.device("cpu"))

OUTPUTS = ("out", "output", "o", "o_extend")
"""What kernels call the tensor that they write to."""


def write_row(out: Tensor, row: int) -> None:
    """What a kernel does that knows a pointer and strides, and no end: zeros in row `row`, which need not be one."""
    size = out.stride(0) * out.itemsize
    ctypes.memset(out.data_ptr() + row * size, 0, size)


def stray(kernel: Callable[..., Any], row: Callable[[Tensor], int]) -> Callable[..., Any]:
    """That kernel, which writes one row more."""

    def writes_more(*args: Any, **named: Any) -> Any:
        given = signature(kernel).bind(*args, **named).arguments
        done = kernel(*args, **named)
        out = next(given[name] for name in OUTPUTS if name in given)
        write_row(out, row(out))
        return done

    return writes_more


AFTER, BEFORE = len, lambda _: -2
PLACES = {AFTER: "1 row after it, up to 1 away", BEFORE: "1 row before it, up to 2 away"}
SENTENCES = [(row, f"wrote outside its output: {place}") for row, place in PLACES.items()]


def ran(case: Case, attend: Callable[..., Any]) -> Verdict:
    return run(case, Backend("planted", attend), INTERPRETER)


# -- on every path -----------------------------------------------------------------------------------------------------

TOKENS = "decode-causal-bf16-b3-q1-h4:2-d64-p16-kv9+1+17-packed-random"
MIXED = "mixed-causal-bf16-b3-q2+9+7-h4:2-d64-p16-kv9+30+7-t2-packed-random"
DISPATCHED = [("unified", TOKENS, "unified"), ("unified", MIXED, "unified+extend.mha+prefill.mha"),
              ("paged", TOKENS, "paged")]  # fmt: skip


def offered(monkeypatch: pytest.MonkeyPatch, kernels: dict[str, Callable[..., Any]]) -> None:
    monkeypatch.setattr(aiter, "_arch", ["gfx942"])
    monkeypatch.setattr(aiter, "_kernels", kernels)


@pytest.mark.parametrize(("row", "sentence"), SENTENCES, ids=["after", "before"])
@pytest.mark.parametrize(("kernel", "case", "path"), DISPATCHED, ids=[path for *_, path in DISPATCHED])
def test_a_part_of_a_batch_is_served_amid_guards(
    kernel: str, case: str, path: str, row: Callable[[Tensor], int], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next part's rows follow, and would be written over it."""
    kernels = {name: KERNELS[name] for name in ("unified", "kvcache", "mha", kernel)}
    offered(monkeypatch, kernels)
    right = ran(Case.parse(case), aiter.attend)
    assert (right.status, right.path) == (Status.PASS, path)
    kernels[kernel] = stray(KERNELS[kernel], row)
    wrong = ran(Case.parse(case), aiter.attend)
    assert (wrong.status, wrong.path) == (Status.MISMATCH, path)
    assert sentence in wrong.reason


IN_PLACE = {
    "aiter_pa_decode": TOKENS,
    "aiter_chunked_prefill": TOKENS,
    "aiter_extend": TOKENS,
    "aiter_prefill": "prefill-causal-bf16-b2-q9+7-h4:2-d64-p16-kv9+7-t1-packed-random",
}


@pytest.mark.parametrize(("row", "sentence"), SENTENCES, ids=["after", "before"])
@pytest.mark.parametrize("backend", IN_PLACE)
def test_an_entry_that_writes_in_place_does_so_amid_guards(
    backend: str, row: Callable[[Tensor], int], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, case = import_module(f"conformance.backends.{backend}"), Case.parse(IN_PLACE[backend])
    monkeypatch.setattr(module._entry, "arch", "gfx942")
    if backend == "aiter_pa_decode":
        monkeypatch.setattr(module, "_compute_type", lambda case: case.dtype)  # Triton's, which may be absent
    monkeypatch.setattr(module._entry, "kernel", ENTRIES[backend])
    assert ran(case, module.attend).status is Status.PASS
    monkeypatch.setattr(module._entry, "kernel", stray(ENTRIES[backend], row))
    wrong = ran(case, module.attend)
    assert wrong.status is Status.MISMATCH
    assert wrong.reason == f"{module._entry.function} {sentence}"


# -- however it is called ----------------------------------------------------------------------------------------------


def strays(case: Case, inputs: Inputs) -> Answer:
    """The right answer, and a row behind it that is nobody's."""
    output = guards.unwritten("the kernel", inputs.q)
    output.rows.copy_(answers.right(case, inputs))
    write_row(output.rows, len(output.rows))
    return Answer(output.rows, path="planted", guarded=(output,))


def test_a_probe_that_writes_outside_is_no_refusal() -> None:
    """But an exception that a kernel raises is."""

    def refuses(case: Case, inputs: Inputs) -> Answer:
        raise Unsupported("it is not claimed", lambda: strays(case, inputs))

    verdict = ran(Case.parse(TOKENS), refuses)
    assert (verdict.status, verdict.path) == (Status.MISMATCH, "planted")
    assert verdict.reason == (
        "the kernel wrote outside its output: 1 row after it, up to 1 away: "
        "silently wrong where the kernel should refuse (it is not claimed)"
    )


def test_a_replay_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured call writes where it was captured: the rows of its answer are filled anew, the guards are not."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    output = guards.unwritten("the kernel", torch.zeros(3, 2, 4))
    call = Captured.__new__(Captured)
    call._answer = Answer(output.rows, path="planted", guarded=(output,))
    graph: Any = SimpleNamespace(replay=output.rows.zero_)
    call._graph = graph
    assert torch.equal(call.replay().out, torch.zeros(3, 2, 4))
    graph.replay = lambda: write_row(output.rows, -1)
    with pytest.raises(WroteOutside, match="1 row before it, up to 1 away"):
        call.replay()


def test_nothing_is_read_back_before_the_check() -> None:
    with host_reads.refused():
        output = guards.unwritten("the kernel", torch.zeros(3, 2, 4))
        output.rows.zero_()
    assert output.strays() == ""


# -- a guarded output --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_output_is_unwritten_dense_and_aligned_as_before(dtype: torch.dtype) -> None:
    like = torch.zeros(5, 7, 80, dtype=torch.float16)[:, :3]
    output = guards.unwritten("the kernel", like, dtype)
    assert output.rows.shape == like.shape
    assert output.rows.dtype is dtype
    assert output.rows.is_contiguous()
    assert bool(output.rows.isnan().all())
    assert (output.rows.data_ptr() - output.around.data_ptr()) % 64 == 0
    assert output.strays() == ""


@pytest.mark.parametrize("value", [0.0, torch.nan, 1.0])
def test_any_other_value_shows_and_where(value: float) -> None:
    output = guards.unwritten("the kernel", torch.zeros(3, 2, 4))
    output.around[guards.ROWS - 4, 1, 3] = value
    output.around[guards.ROWS + 3 + 1 : guards.ROWS + 3 + 3, 0, 0] = value
    said = "1 row before it, up to 4 away and 2 rows after it, up to 3 away"
    assert output.strays() == f"the kernel wrote outside its output: {said}"


def test_an_answer_may_have_several_outputs() -> None:
    first, second = (guards.unwritten(name, torch.zeros(3, 2, 4)) for name in ("one", "two"))
    guards.check((first, second), "path")
    second.around[-1] = 0
    with pytest.raises(WroteOutside, match=r"^two wrote outside its output"):
        guards.check((first, replace(second)), "path")
    assert isinstance(second, Guarded)
