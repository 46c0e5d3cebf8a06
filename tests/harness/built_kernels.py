"""A backend whose kernels build, or do not, in every way: `--backend built_kernels:by_page_size --target compile:...`.

Importing this module imports Triton, as a backend does once its target is active.
"""

import resource
from typing import Any

import torch
import triton
import triton.language as tl

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.status import Unsupported


@triton.jit
def copy(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i))


@triton.jit
def product(a_ptr, b_ptr, y_ptr, K, N: tl.constexpr, TILE: tl.constexpr):
    """Y [N, N] = A [N, K] times B [K, N]: LDS holds a tile of A and of B for every stage but the last."""
    i, k = tl.arange(0, N), tl.arange(0, TILE)
    total = tl.zeros((N, N), dtype=tl.float32)
    for first in range(0, K, TILE):
        a = tl.load(a_ptr + i[:, None] * K + first + k[None, :])
        b = tl.load(b_ptr + (first + k)[:, None] * N + i[None, :])
        total = tl.dot(a, b, total)
    tl.store(y_ptr + i[:, None] * N + i[None, :], total)


@triton.jit
def centred(x_ptr, y_ptr, N: tl.constexpr):
    """Y = X less its mean: every element of X is needed once more when the last one is known."""
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x - tl.sum(x, 0) / N)


@triton.jit
def no_instruction(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.inline_asm_elementwise("v_nonsense $0, $1", "=v,v", [tl.load(x_ptr + i)], tl.float32, is_pure=True, pack=1)
    tl.store(y_ptr + i, x)


@triton.jit
def refused(x_ptr):
    tl.store(x_ptr, 0)


def _refuse(*_: object, **__: object) -> None:
    raise NotImplementedError("not for this arch")


refused.add_pre_run_hook(_refuse)

tuned = triton.autotune([triton.Config({}, num_stages=stages) for stages in (4, 2)], key=[])(product)

X, Y = (torch.zeros(65536) for _ in "xy")
A, B = (torch.zeros(128 * 1024, dtype=torch.bfloat16) for _ in "ab")


def launch(kernel: Any, *arguments: Any, **options: Any) -> None:
    kernel[(1,)](*arguments, **options)


def builds() -> None:
    for _ in range(2):
        launch(copy, X, Y, N=1024)
    launch(product, A, B, Y, 1024, N=64, TILE=64, num_stages=2, num_warps=8)


def does_not_compile() -> None:
    launch(copy, X, Y, N=1024)
    launch(copy, X, Y, N=1000)


def needs_much_lds() -> None:
    launch(product, A, B, Y, 1024, N=128, TILE=64, num_stages=4, num_warps=8)


def spills() -> None:
    launch(centred, X, Y, N=32768, num_warps=1)


def has_too_many_threads() -> None:
    launch(copy, X, Y, N=1024, num_warps=32)


def does_not_assemble() -> None:
    launch(no_instruction, X, Y, N=64)


def is_refused_at_launch() -> None:
    launch(refused, X)


def tunes() -> None:
    launch(tuned, A, B, Y, 1024, N=128, TILE=64)


def launches_nothing() -> None:
    copy.warmup(X, Y, N=2048, grid=(1,))


def declines() -> None:
    raise Unsupported("no kernel has what this case asks")


BEHAVIOURS = (builds, does_not_compile, needs_much_lds, spills, has_too_many_threads, does_not_assemble,
              is_refused_at_launch, tunes, launches_nothing, declines)  # fmt: skip


def by_page_size(case: Case, inputs: Inputs) -> torch.Tensor:
    """What page size 1, 2, ... asks for; the answer is nonsense, which nobody judges."""
    BEHAVIOURS[case.page_size - 1]()
    return torch.full_like(inputs.q, torch.nan)


def host_reads(case: Case, inputs: Inputs) -> torch.Tensor:
    """A kernel for each sequence, as host code that reads lengths and the block table launches it, on huge caches."""
    for keys, page in zip(inputs.seq_lens.tolist(), inputs.block_table[:, 0].tolist(), strict=True):
        launch(copy, inputs.k_cache[page], inputs.v_cache, N=triton.next_power_of_2(keys))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - MEMORY_BEFORE
    if grown > GIB:
        raise MemoryError(f"{grown} more than before the inputs were made")
    return inputs.q


MEMORY_BEFORE, GIB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 2**20
"""In KiB, as Linux counts."""
