"""The calls that rules are tried on: inputs as each project's tests draw them, and what those compare with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from conformance.case import Case
from conformance.execute import exact
from conformance.inputs import Inputs, make
from reference import Attention
from reference.visibility import diagonal, visible

Numbers = Callable[[torch.Generator, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Draw:
    """How q, K and V are drawn: as the suite does in a regime, or by `numbers`, in a dtype, K and V `stored` so."""

    name: str
    regime: str = "random"
    numbers: Numbers | None = None
    dtype: str = "bf16"
    stored: torch.dtype | None = None

    def inputs(self, case: Case, seed: int) -> Inputs:
        """The call's inputs; its pages, table and features are the suite's in every draw."""
        inputs = make(case)
        if self.numbers is None and self.stored is None:
            return inputs
        generator = torch.Generator().manual_seed(seed)

        def drawn(x: Tensor, stored: torch.dtype | None) -> Tensor:
            new = x if self.numbers is None else self.numbers(generator, tuple(x.shape))
            return (new if stored is None else new.to(stored)).to(x.dtype)

        k, v = (drawn(cache, self.stored) for cache in (inputs.k_cache, inputs.v_cache))
        return replace(inputs, q=drawn(inputs.q, None), k_cache=k, v_cache=v)


def uniform(reach: float) -> Numbers:
    """Numbers spread evenly over `(-reach, reach)`."""
    return lambda generator, shape: (2 * torch.rand(shape, generator=generator) - 1) * reach


NORMAL = Draw("normal")
NEEDLE = Draw("needle", regime="needle")
SHIFTED = Draw("shifted", regime="shifted")
LARGE = Draw("large", regime="large")
NORMAL_FP16 = Draw("normal, fp16", dtype="fp16")
NORMAL_E4M3 = Draw("normal, K and V in e4m3", stored=torch.float8_e4m3fn)
SMALL_NORMAL = Draw("0.1 x normal", numbers=lambda generator, shape: 0.1 * torch.randn(shape, generator=generator))
UNIFORM = Draw("uniform (-1, 1)", numbers=uniform(1.0))
TINY = Draw("uniform (-0.001, 0.001)", numbers=uniform(1e-3))

QUERIES, SEQUENCES, Q_HEADS, KV_HEADS, HEAD_DIM, PAGE = 4, 2, 4, 2, 64, 16
SHORT = 16
"""Keys of the short sequence of a ragged batch."""


@dataclass(frozen=True)
class Call:
    """A kind of call: its mode and features, to be made at any context length."""

    name: str
    causal: bool
    softcap: float = 0.0
    alibi: bool = False
    sinks: bool = False
    half_window: bool = False  # half the keys on the left, and 2 on the right

    def case(self, draw: Draw, length: int, seed: int, *, ragged: bool = False) -> Case:
        """3 keys fewer than `length`, so that the last page is partial; a seed takes one more, and so draws anew."""
        keys = length - 3 - seed
        return Case(
            causal=self.causal,
            dtype=draw.dtype,
            query_lens=(QUERIES,) * SEQUENCES,
            seq_lens=(SHORT, *(keys,) * (SEQUENCES - 1)) if ragged else (keys,) * SEQUENCES,
            q_heads=Q_HEADS,
            kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            page_size=PAGE,
            regime=draw.regime,
            window=(keys // 2, 2) if self.half_window else (-1, -1),
            softcap=self.softcap,
            alibi=self.alibi,
            sinks=self.sinks,
        )

    def problem(self, draw: Draw, length: int, seed: int, *, ragged: bool = False) -> "Problem":
        """The call with inputs, at a length."""
        case = self.case(draw, length, seed, ragged=ragged)
        return Problem(case, draw.inputs(case, seed), draw)


CALLS = {
    "noncausal": (Call("plain", False), Call("window", False, half_window=True)),
    "causal": (
        Call("plain", True),
        Call("window", True, half_window=True),
        Call("softcap", True, softcap=30.0),
        Call("ALiBi", True, alibi=True),
        Call("sinks", True, sinks=True),
    ),
}
"""By mode, simplest first: a defect is tried in the first call that shows it at all."""


@dataclass(frozen=True)
class Problem:
    """One call with its inputs and the results that rules compare with, each made once, when it is asked for."""

    case: Case
    inputs: Inputs
    draw: "Draw"

    @cached_property
    def want(self) -> Attention:
        """The oracle's result, with its rounding sums."""
        return exact(self.case, self.inputs)

    @cached_property
    def stored(self) -> Tensor:
        """The exact output as it would be stored; a float32 reference differs from it in nothing that counts here."""
        return self.want.out.to(self.inputs.q.dtype)

    @cached_property
    def low(self) -> Tensor:
        """A plain 16-bit run as FlashAttention's tests make it: `k * scale`, scores, weights and output are rounded."""
        return low_precision(self.case, self.inputs, scaled="k")

    @cached_property
    def low_scaled_q(self) -> Tensor:
        """The same as vLLM's tests make it: `q * scale` is rounded, and softcap works in float32."""
        return low_precision(self.case, self.inputs, scaled="q")


def low_precision(case: Case, inputs: Inputs, *, scaled: str) -> Tensor:
    """Attention [T, Hq, D] by plain PyTorch in the dtype of q: products are rounded as they are stored, and weights."""
    dtype, parts = inputs.q.dtype, []
    for b, (m, n) in enumerate(zip(case.query_lens, case.seq_lens, strict=True)):
        q = inputs.q[case.query_starts[b] : case.query_starts[b] + m]
        pages = inputs.block_table[b, : case.pages[b]].long()
        k, v = (cache[pages].flatten(0, 1)[:n] for cache in (inputs.k_cache, inputs.v_cache))
        k, v = (x.repeat_interleave(case.gqa_ratio, 1) for x in (k, v))
        q, k = (q * inputs.scale, k) if scaled == "q" else (q, k * inputs.scale)
        scores = torch.einsum("mhd,nhd->hmn", q.float(), k.float()).to(dtype)
        if case.softcap:
            scores = scores.float() if scaled == "q" else scores
            scores = torch.tanh(scores / case.softcap) * case.softcap
        scores, at = scores.float(), torch.arange(n)
        stand = diagonal(torch.tensor([m]), torch.tensor([n]), m)
        if inputs.alibi_slopes is not None:
            scores += inputs.alibi_slopes[:, None, None] * (at - stand[0][:, None])
        seen = visible(stand, torch.tensor([n]), at, causal=case.causal, window=case.window)
        scores = scores.masked_fill(~seen, -torch.inf)
        if inputs.sinks is not None:
            scores = torch.cat((scores, inputs.sinks[:, None, None].expand(-1, m, 1)), -1)
        weights = scores.softmax(-1)[..., :n].to(dtype)
        parts.append(torch.einsum("hmn,nhd->mhd", weights.float(), v.float()).to(dtype))
    return torch.cat(parts)
