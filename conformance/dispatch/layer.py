"""What a model layer fixes, and one call of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conformance import guards
from conformance.dispatch.metadata import Part
from conformance.guards import Guarded
from conformance.status import Unsupported

Kernel = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class AttentionLayer:
    """What a model layer fixes. `window` is (left, right) reach in keys, -1 for unbounded.

    Descales [B, Hkv] float32 are what stored queries, keys and values are to be multiplied by; None for 1.
    """

    scale: float
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    q_descale: Tensor | None = None
    k_descale: Tensor | None = None
    v_descale: Tensor | None = None
    several_descales: bool = False  # of a cache: they differ from KV head to KV head, or from sequence to sequence
    out_dtype: torch.dtype | None = None  # of the output, where it is not that of the queries


@dataclass(frozen=True)
class Dispatched:
    """`out` [T, Hq, D], `lse` [T, Hq] where all kernels that ran give one, and the path that was taken.

    `guarded` are the outputs that kernels wrote to, to be checked once no graph is captured.
    """

    out: Tensor
    lse: Tensor | None
    path: str
    guarded: tuple[Guarded, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer: what all parts of a batch share. Each writes its rows of `out`."""

    layer: AttentionLayer
    causal: bool
    q: Tensor  # [T, Hq, D]
    k_cache: Tensor  # [num_blocks, page_size, Hkv, D], with any strides
    v_cache: Tensor
    key: Tensor | None  # the new tokens', [T, Hkv, D]
    value: Tensor | None
    out: Tensor  # [T, Hq, D]
    load: Callable[[str], Kernel | None]
    probe: Callable[[], Dispatched] | None  # the same call without the refusals of `unclaimed`; None: this is it

    def kernel(self, name: str) -> Kernel:
        """Raises Unsupported where this AITER has none of that name."""
        kernel = self.load(name)
        if kernel is None:
            raise Unsupported(f"this AITER has no {name} kernel")
        return kernel

    def unclaimed(self, what: str) -> None:
        """Refuse what a kernel has a parameter for but is not claimed to compute, unless it is being probed."""
        if self.probe is not None:
            raise Unsupported(what, self.probe)

    def output(self, kernel: str, part: Part) -> Guarded:
        """What a kernel that writes in place is given for a part's rows: with others around that are not its own."""
        return guards.unwritten(kernel, self.out[part.tokens])

    def new_keys(self, part: Part) -> tuple[Tensor, Tensor]:
        """Keys and values of the part's own tokens, [T, Hkv, D]. Raises ValueError without them."""
        if self.key is None or self.value is None:
            raise ValueError("extends and prefills need the keys and values of their new tokens")
        return self.key[part.tokens], self.value[part.tokens]


@dataclass(frozen=True)
class Answered:
    """What a part wrote its rows with: `lse` [T, Hq] of them where the kernel gives one, and the path.

    `guarded` is the output that the kernel was given, where it does not make one of its own.
    """

    path: str
    lse: Tensor | None = None
    guarded: Guarded | None = None


def of(part: Part, descale: Tensor | None) -> Tensor | None:
    """A descale [B, Hkv] for the sequences of a part."""
    return None if descale is None else descale[part.sequences]
