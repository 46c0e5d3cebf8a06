"""The dispatch never makes the host wait for a value of the device, and what does is noticed."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.dispatch import forward
from conformance.host_reads import HostRead, refused
from conformance.inputs import make
from tests.harness.dispatched import RAGGED, UNIFORM, built, case_of, layer_of


def shapes_alone(name: str) -> Callable[..., Any] | None:
    """Kernels for tensors without values."""

    def kvcache(q: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1])

    def varlen(q: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(q), q.new_empty(q.shape[:2])

    return {"kvcache": kvcache, "mha": varlen, "paged": lambda *_: None, "unified": lambda **_: None}.get(name)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("mode", ["causal", "noncausal"])
@pytest.mark.parametrize("lengths", (UNIFORM | RAGGED).values(), ids=UNIFORM | RAGGED)
def test_the_host_never_waits_for_the_device(mode: str, lengths: str, device: str) -> None:
    """On the meta device tensors have no values: whatever reads one raises anyway."""
    case = case_of(mode, lengths)
    inputs = make(case).to(torch.device(device))
    uniform = len(set(case.query_lens)) == 1
    with refused():
        ways = [built(case, inputs), *([built(case, inputs, for_drafting=True)] if uniform else [])]
        for metadata in ways:
            done = forward(
                layer_of(case, inputs), metadata, inputs.q, inputs.k_cache, inputs.v_cache, load=shapes_alone
            )
            assert done.out.shape == inputs.q.shape
            assert done.lse is None or done.lse.shape == inputs.q.shape[:2]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("for_drafting", [False, True])
def test_a_table_is_trimmed_without_waiting(for_drafting: bool, device: str) -> None:
    case = case_of("causal", "b3-q1-h4:2-d64-p16-kv90+1+17", (20, -1))
    inputs = make(case).to(torch.device(device))
    with refused():
        metadata = built(case, inputs, for_drafting=for_drafting, trims=True)
        done = forward(layer_of(case, inputs), metadata, inputs.q, inputs.k_cache, inputs.v_cache, load=shapes_alone)
    assert done.path == "paged.trimmed"


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("window", [(-1, -1), (5, -1)])
def test_a_mixed_step_is_told_its_lengths_by_the_host(window: tuple[int, int], device: str) -> None:
    case = case_of("noncausal", "b4-q2+3+9+6-h4:2-d16-p4-kv12+3+40+6", window, threshold=3, chunk=8)
    inputs = make(case).to(torch.device(device))
    with refused():
        metadata = built(case, inputs)
        done = forward(layer_of(case, inputs), metadata, inputs.q, inputs.k_cache, inputs.v_cache,
                       key=inputs.key, value=inputs.value, load=shapes_alone)  # fmt: skip
    assert done.path == f"kvcache.padded+extend{'.window' if window[0] > 0 else ''}.mha+prefill.mha"


LENGTHS = torch.tensor([3, 1, 2], dtype=torch.int32)

READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.max().item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to, by name": lambda x: x.to(device="cpu"),
    "numpy": lambda x: x.numpy(),
    "bool": lambda x: bool((x > 0).all()),
    "if": lambda x: 1 if (x > 0).any() else 0,
    "int": lambda x: int(x[0]),
    "float": lambda x: float(x[0]),
    "index": lambda x: range(x[0]),  # type: ignore[call-overload]
    "max of two": lambda x: max(x[0], x[1]),
    "max of all": max,
    "in": lambda x: 3 in x,
    "repr": repr,
    "print": print,
    "format": lambda x: f"{x[0]:d}",
    "mask": lambda x: x[x > 1],
    "put by mask": lambda x: x.clone().__setitem__(x > 1, torch.tensor([7, 8], dtype=torch.int32)),
    "nonzero": lambda x: x.nonzero(),
    "torch.nonzero": torch.nonzero,
    "where": lambda x: torch.where(x > 1),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, output_size=None),
    "repeats of rows": lambda x: x.repeat_interleave(x),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_is_noticed_and_named(read: Callable[[Tensor], object]) -> None:
    with pytest.raises(HostRead, match=r"reads a value of the device: \w+ in .*test_no_host_read\.py:\d+"), refused():
        read(LENGTHS.clone())


NO_READS: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).cumsum(0).max(),
    "shape": lambda x: [len(x), x.numel(), x.shape[0], x.stride(), x.dtype, x.device, x.data_ptr()],
    "slice": lambda x: x[1:].view(2, 1)[:, 0],
    "gather": lambda x: x[torch.tensor([0, 2])],
    "put": lambda x: x.clone().__setitem__(slice(0, 2), 5),
    "fill where": lambda x: x.clone().__setitem__(x > 1, 0),
    "masked_fill": lambda x: x.masked_fill(x > 1, 0),
    "where of three": lambda x: torch.where(x > 1, x, 0),
    "to its own device": lambda x: torch.ones(2).to(x.device),
    "to a dtype": lambda x: x.to(torch.int64),
    "is none": lambda x: x is None,
    "searchsorted": lambda x: torch.searchsorted(x.cumsum(0), torch.arange(3)),
    "repeat": lambda x: [x.repeat_interleave(2), torch.repeat_interleave(x, x, output_size=6)],
    "iterate": lambda x: [row + 1 for row in x],
}


@pytest.mark.parametrize("work", NO_READS.values(), ids=NO_READS)
def test_work_that_reads_nothing_is_not_mistaken_for_a_read(work: Callable[[Tensor], object]) -> None:
    with refused():
        work(LENGTHS.clone())


def test_a_read_within_an_operator_of_python_is_noticed() -> None:
    """Torch's modes are not in force there, and AITER's operators are such."""

    @torch.library.custom_op("conformance_test::longest", mutates_args=())
    def longest(lengths: Tensor) -> Tensor:
        return torch.zeros(int(lengths.max().item()))

    with pytest.raises(HostRead, match=r"item in longest \(.*test_no_host_read\.py:"), refused():
        longest(LENGTHS)


def test_a_read_whose_error_is_caught_is_noticed() -> None:
    def tolerant() -> None:
        with suppress(Exception):
            LENGTHS.tolist()

    with pytest.raises(HostRead, match="tolist in tolerant"), refused():
        tolerant()


def test_everything_is_as_it_was_afterwards() -> None:
    before = {name: getattr(torch.Tensor, name) for name in dir(torch.Tensor) if callable(getattr(torch.Tensor, name))}
    own = set(vars(torch.Tensor))
    with refused():
        pass
    assert {name: getattr(torch.Tensor, name) for name in before} == before
    assert set(vars(torch.Tensor)) == own
    assert LENGTHS.tolist() == [3, 1, 2]
