"""The dispatch never makes the host wait for a value of the device: it can be captured in a graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.dispatch import forward
from conformance.inputs import make
from tests.harness.dispatched import RAGGED, UNIFORM, built, case_of, layer_of


class NoCopyToTheHost(TorchDispatchMode):
    """Fails on every operation that makes the host wait for a value, or for a size that depends on one."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(self.WAITS), f"{name} makes the host wait for the device"
        target = (kwargs or {}).get("device")
        assert target is None or torch.device(target).type == "meta", f"{name} moves data to {target}"
        return func(*args, **(kwargs or {}))


@contextmanager
def a_device_without_values() -> Iterator[torch.device]:
    """Tensors on the meta device have shapes and no values: whatever reads one raises."""
    with NoCopyToTheHost():
        yield torch.device("meta")


def shapes_alone(name: str) -> Callable[..., Any]:
    """Kernels for tensors without values."""

    def kvcache(q: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1])

    return kvcache if name == "kvcache" else lambda **_: None


@pytest.mark.parametrize("mode", ["causal", "noncausal"])
@pytest.mark.parametrize("lengths", (UNIFORM | RAGGED).values(), ids=UNIFORM | RAGGED)
def test_the_host_never_waits_for_the_device(mode: str, lengths: str) -> None:
    case = case_of(mode, lengths)
    inputs = make(case).to(torch.device("meta"))
    uniform = len(set(case.query_lens)) == 1
    with a_device_without_values():
        ways = [built(case, inputs), *([built(case, inputs, for_drafting=True)] if uniform else [])]
        for metadata in ways:
            done = forward(
                layer_of(case, inputs), metadata, inputs.q, inputs.k_cache, inputs.v_cache, load=shapes_alone
            )
            assert done.out.shape == inputs.q.shape
            assert done.lse is None or done.lse.shape == inputs.q.shape[:2]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.numpy(),
        bool,
        int,
        lambda x: x.repeat(3)[x.repeat(3) > 0],
        lambda x: x.repeat(3).nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1], device="cpu") + x.to("cpu"),
    ],
    ids=["item", "tolist", "cpu", "to", "numpy", "bool", "int", "mask", "nonzero", "equal", "add"],
)
def test_a_copy_to_the_host_would_be_noticed(read: Callable[[Tensor], object]) -> None:
    with (
        a_device_without_values() as device,
        pytest.raises((AssertionError, RuntimeError, NotImplementedError, TypeError)),
    ):
        read(torch.ones(1, dtype=torch.int32, device=device))
