"""What a kernel can do to a GPU, and what the suite makes of it. For a machine that has one, not collected elsewhere:

python -m pytest tests/gpu/faults_on_a_gpu.py
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from conformance.backends.torch import attend
from conformance.case import Case
from conformance.check import Check
from conformance.inputs import Inputs
from conformance.isolate import Isolation
from conformance.status import Status
from conformance.system import choose

# -- a backend that the child imports: the case's page size says what it does ------------------------------------------


@triton.jit
def _store_far_away(out, distance):
    tl.store(out + distance, 1.0)


def right(case: Case, inputs: Inputs) -> Tensor:
    return attend(case, inputs)


def stores_far_away(case: Case, inputs: Inputs) -> Tensor:
    """A terabyte and more past the end of a tensor."""
    _store_far_away[(1,)](torch.zeros(1, device=inputs.q.device), 1 << 40)
    return attend(case, inputs)


def looks_up_no_page(case: Case, inputs: Inputs) -> Tensor:
    """An index out of range, which torch's own kernels assert of."""
    return attend(case, inputs) + inputs.k_cache[inputs.block_table.long() + 10**6].sum()


def never_ends(case: Case, inputs: Inputs) -> Tensor:
    torch.cuda._sleep(1 << 45)
    return attend(case, inputs)


def takes_all_memory(case: Case, inputs: Inputs) -> Tensor:
    torch.empty(1 << 50, dtype=torch.uint8, device=inputs.q.device)
    return attend(case, inputs)


WAYS = (right, stores_far_away, looks_up_no_page, never_ends, takes_all_memory)


def by_page_size(case: Case, inputs: Inputs) -> Tensor:
    return WAYS[case.page_size - 1](case, inputs)


# -- what comes of each ------------------------------------------------------------------------------------------------

EXPECTED = {
    stores_far_away: (Status.CRASH, "the GPU is lost to the process: "),
    looks_up_no_page: (Status.CRASH, "the GPU is lost to the process: "),
    never_ends: (Status.TIMEOUT, "no answer in 15 s, in "),
    takes_all_memory: (Status.RESOURCE, "out of memory"),
}


@pytest.fixture(scope="module")
def isolation() -> Iterator[Isolation]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        child = Isolation(choose("faults_on_a_gpu:by_page_size", "gpu", None), time_limit=15)
        yield child
        child.close()


def check_of(way: Callable[..., object], keys: int) -> Check:
    return Check.parse(f"decode-noncausal-bf16-b1-q2-h2:1-d16-p{WAYS.index(way) + 1}-kv{keys}-packed-random")


@pytest.mark.parametrize("way", EXPECTED)
def test_a_gpu_that_is_lost_costs_one_check(isolation: Isolation, way: Callable[..., Tensor]) -> None:
    before, outcome, after = (isolation.run(check_of(w, keys)) for w, keys in ((right, 9), (way, 10), (right, 11)))
    status, words = EXPECTED[way]
    print(outcome.text)
    assert [before.status, outcome.status, after.status] == [Status.PASS, status, Status.PASS]
    assert words in str(outcome.result["reason"])
