"""A kernel for single queries that uses no matrix unit: it multiplies, and adds up, in 16 bits what it is told to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import TORCH_DTYPE, Inputs
from conformance.rounding import RoundingProfile
from tests.harness.dispatch_kernels import pages_of


def by_halves(terms: Tensor) -> Tensor:
    """The sum over the last dimension, whose length is a power of two, rounded after every addition."""
    while terms.shape[-1] > 1:
        first, second = terms.chunk(2, -1)
        terms = first + second
    return terms[..., 0]


@dataclass(frozen=True)
class Scalar:
    """What is rounded to the case's dtype beside the output; all else is float32."""

    products: bool = False
    score_sum: bool = False
    weight_sum: bool = False
    split: int = 0  # keys of a split whose output is stored, 0 for one

    def profile(self, case: Case) -> RoundingProfile:
        def dtype(rounds: object) -> str | None:
            return case.dtype if rounds else None

        return RoundingProfile(
            out=case.dtype,
            p=case.dtype if self.weight_sum else "fp32",
            products=dtype(self.products or self.score_sum),
            score_sum=dtype(self.score_sum),
            weight_sum=dtype(self.weight_sum),
            split=dtype(self.split),
        )

    def __call__(self, case: Case, inputs: Inputs) -> Tensor:
        """The output [T, Hq, D] for a scale that is a power of two, which rounds nothing."""
        out = torch.empty_like(inputs.q)
        for b, n in enumerate(case.seq_lens):
            k, v = (pages_of(cache, inputs.block_table[b], n) for cache in (inputs.k_cache, inputs.v_cache))
            for head in range(case.q_heads):
                one = k[:, head // case.gqa_ratio], v[:, head // case.gqa_ratio]
                out[b, head] = self._row(inputs.q[b, head], *one, inputs.scale, case).to(out.dtype)
        return out

    def _row(self, q: Tensor, k: Tensor, v: Tensor, scale: float, case: Case) -> Tensor:
        scores = self._scores(q, k) * scale
        outs, maxima, sums = [], [], []
        for s, values in zip(*(x.split(self.split or len(k)) for x in (scores, v)), strict=True):
            maxima.append(s.max())
            p = (s - s.max()).exp()
            if self.weight_sum:
                p = p.to(TORCH_DTYPE[case.dtype])
                padded = torch.nn.functional.pad(p, (0, -len(p) % case.page_size))
                sums.append(by_halves(padded.view(-1, case.page_size)).float().sum())
            else:
                sums.append(p.sum())
            out = p.float() @ values.float() / sums[-1]
            outs.append(out.to(TORCH_DTYPE[case.dtype]).float() if self.split else out)
        weights = torch.stack(sums) * (torch.stack(maxima) - max(maxima)).exp()
        return weights @ torch.stack(outs) / weights.sum()

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        if self.score_sum:
            return by_halves(q * k).float()
        return (q * k).float().sum(-1) if self.products else k.float() @ q.float()
