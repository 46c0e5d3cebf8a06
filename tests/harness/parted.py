"""A correct kernel that answers extends in parts, as backends do: each part stored in 16 bits, then merged by lse."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import TORCH_DTYPE, Inputs
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
        """`out` [T, Hq, D] in the case's dtype and `lse` [T, Hq] float32, of a batch whose lengths all differ."""
        assert len(set(case.seq_lens)) == case.batch
        starts = {case.seq_lens[b]: case.parts(b) for b in range(case.batch)}
        most = max(map(len, starts.values())) - 1
        out, lse = torch.zeros(inputs.q.shape), torch.full(inputs.q.shape[:2], -torch.inf)
        for i in range(most):

            def keys(_: Case, n: int, i: int = i) -> tuple[int, int]:
                some = starts[n]
                return some[min(i, len(some) - 1)], some[min(i + 1, len(some) - 1)]

            part = Flash(keys=keys)
            counted_once = part if i == 0 else replace(part, sink=lambda _case, _sinks: None)
            one, one_lse = counted_once(case, inputs)
            together = torch.logaddexp(lse, one_lse)
            before, now = ((x - together).exp().nan_to_num(nan=0.0)[..., None] for x in (lse, one_lse))
            if not self.weighs:
                before, now = torch.full_like(before, float(i > 0) / 2), torch.full_like(now, 0.5 if i else 1.0)
            out, lse = out * before + one.float() * now, together
            if self.rounds_running:
                out = out.to(TORCH_DTYPE[case.dtype]).float()
        return out.to(TORCH_DTYPE[case.dtype]), lse
