"""A correct kernel that answers extends in parts, as backends do: each part stored in 16 bits, then merged by lse."""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import TORCH_DTYPE, Inputs, queries
from conformance.rounding import RoundingProfile
from tests.harness.flash import Flash


@dataclass(frozen=True)
class Parted:
    """`rounds_running`: the running result is stored in 16 bits too; `weighs`: whether parts are merged by weight."""

    rounds_running: bool = False
    weighs: bool = True

    def profile(self, case: Case) -> RoundingProfile:
        merged = case.dtype if self.rounds_running else None
        return replace(Flash().profile(case), parts=case.dtype, merged=merged)

    def __call__(self, case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """`out` [T, Hq, D] in the case's dtype and `lse` [T, Hq] float32."""
        q = queries(case, inputs)
        out, lse = torch.zeros(q.shape), torch.full(q.shape[:2], -torch.inf)
        for b, m in enumerate(case.query_lens):
            rows = slice(case.query_starts[b], case.query_starts[b] + m)
            out[rows], lse[rows] = self._sequence(case, inputs, b, q[rows])
        return out.to(TORCH_DTYPE[case.dtype]), lse

    def _sequence(self, case: Case, inputs: Inputs, b: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Part after part, in float32; the first one has the sinks, so that each counts once."""
        stored = TORCH_DTYPE[case.dtype]
        out, lse = torch.zeros(q.shape), torch.full(q.shape[:2], -torch.inf)
        for i, part in enumerate(pairwise(case.parts(b))):
            flash = Flash(keys=lambda _case, _n, part=part: part)
            counted_once = flash if i == 0 else replace(flash, sink=lambda _case, _sinks: None)
            one, one_lse = counted_once.sequence(case, inputs, b, q)
            together = torch.logaddexp(lse, one_lse)
            before, now = ((x - together).exp().nan_to_num(nan=0.0)[..., None] for x in (lse, one_lse))
            if not self.weighs:
                before, now = torch.full_like(before, float(i > 0) / 2), torch.full_like(now, 0.5 if i else 1.0)
            out, lse = out * before + one.to(stored).float() * now, together
            if self.rounds_running:
                out = out.to(stored).float()
        return out, lse
