"""Defects planted in the dispatch, on right kernels: the steps of the smoke tier alone fail every one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.backends import aiter
from conformance.case import DECODE, EXTEND, PREFILL, Case
from conformance.dispatch import decode, extend, prefill
from conformance.dispatch.layer import Answered, Call
from conformance.dispatch.merging import Partial
from conformance.dispatch.metadata import Part
from conformance.judge import judge
from conformance.manifest import cases
from conformance.status import Status
from tests.harness.dispatch_kernels import ROCM, TRITON, Kernels
from tests.harness.dispatched import served
from tests.harness.judged import problem

SMOKE = cases("smoke")

Attend = Callable[..., Answered]


@dataclass(frozen=True)
class Planted:
    """A function of a module of the dispatch, and what stands in its place. `concerns`: cases that it might show in."""

    module: ModuleType
    function: str
    wrong: Callable[[Callable[..., Any]], Callable[..., Any]]
    concerns: Callable[[Case], bool]
    kernels: tuple[str, ...] = TRITON


def of_a_layer(**fields: object) -> Callable[[Attend], Attend]:
    """Served as if the layer had these."""
    return lambda attend: lambda call, *others: attend(_told(call, **fields), *others)


def usual_scale(attend: Attend) -> Attend:
    return lambda call, *others: attend(_told(call, scale=call.q.shape[-1] ** -0.5), *others)


def _told(call: Call, **fields: Any) -> Call:
    return replace(call, layer=replace(call.layer, **fields))


def merged_below(maximum: Callable[[Sequence[Tensor]], Tensor]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Parts merged by exponentials of what each lse is above that."""

    def merged(parts: Sequence[Partial], sinks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outs = [p.out.float() if p.has_keys is None else p.out.float().masked_fill(~p.has_keys[:, None, None], 0.0)
                for p in parts]  # fmt: skip
        lses = [p.lse.float() if p.has_keys is None else p.lse.float().masked_fill(~p.has_keys[:, None], -torch.inf)
                for p in parts]  # fmt: skip
        weights = lses if sinks is None else [*lses, sinks.float().expand_as(lses[0])]
        base = maximum(weights)
        shares = [(lse - base).exp() for lse in weights]
        total = torch.stack(shares).sum(0)
        out = sum((x * share[..., None] for x, share in zip(outs, shares, strict=False)), start=outs[0] * 0)
        return out / total[..., None], base + total.log()

    return lambda _: merged


def the_maximum(lses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(lses)).amax(0)


def of_the_sequence_before(_: object) -> Callable[[Part, Tensor | None], Tensor | None]:
    return lambda part, descale: None if descale is None else descale.roll(1, 0)[part.sequences]


def extends(case: Case) -> bool:
    return case.step == EXTEND


def merges(case: Case) -> bool:
    """Parts whose lse are large, or lie far apart."""
    return extends(case) and case.chunk > 0 and case.regime in ("shifted", "large")


def prefills(case: Case) -> bool:
    return case.step == PREFILL


PLANTED = {
    "sinks lost in an extend with a window": Planted(
        extend, "_in_reach", of_a_layer(sinks=None), lambda c: extends(c) and c.sinks and not c.takes_chunks
    ),
    "sinks lost where parts are merged": Planted(
        extend, "_in_parts", of_a_layer(sinks=None), lambda c: extends(c) and c.sinks and c.takes_chunks
    ),
    "sinks lost in a prefill": Planted(prefill, "attend", of_a_layer(sinks=None), lambda c: prefills(c) and c.sinks),
    "merged without a maximum": Planted(
        extend, "merged", merged_below(lambda lses: torch.zeros_like(lses[0])), merges
    ),
    "merged below the maximum of the first part": Planted(
        extend, "merged", merged_below(lambda lses: lses[0]), merges
    ),
    "merged below the maximum of the last part": Planted(
        extend, "merged", merged_below(lambda lses: lses[-1]), lambda c: merges(c) and not c.sinks
    ),
    "another scale in an extend": Planted(
        extend, "_in_parts", usual_scale, lambda c: extends(c) and c.scale > 0
    ),
    "another scale in an extend with a window": Planted(
        extend, "_in_reach", usual_scale, lambda c: extends(c) and c.scale > 0
    ),
    "another scale in a prefill": Planted(prefill, "attend", usual_scale, lambda c: prefills(c) and c.scale > 0),
    "descales of another sequence in an extend": Planted(
        extend, "of", of_the_sequence_before, lambda c: extends(c) and bool(c.cache_dtype)
    ),
    "descales of another sequence in a decode": Planted(
        decode, "of", of_the_sequence_before, lambda c: c.step == DECODE and bool(c.q_dtype) and not c.causal
    ),
    "softcap lost in an extend": Planted(
        extend, "_in_parts", of_a_layer(softcap=0.0), lambda c: extends(c) and c.softcap > 0, ROCM
    ),
    "softcap lost in an extend with a window": Planted(
        extend, "_in_reach", of_a_layer(softcap=0.0), lambda c: extends(c) and c.softcap > 0, ROCM
    ),
    "softcap lost in a prefill": Planted(
        prefill, "attend", of_a_layer(softcap=0.0), lambda c: prefills(c) and c.softcap > 0, ROCM
    ),
}  # fmt: skip


def status(case: Case, kernels: tuple[str, ...]) -> Status:
    inputs, want = problem(case)
    done = served(case, Kernels(kernels), q=inputs.q)
    return judge(case, want, done.out, done.lse, aiter.rounding(done.path, case)).status


right = cache(status)


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_the_smoke_tier_fails_a_defect_of_the_dispatch(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    concerned = [case for case in SMOKE if planted.concerns(case)]
    assert {case.id: right(case, planted.kernels) for case in concerned} == {c.id: Status.PASS for c in concerned}
    monkeypatch.setattr(planted.module, planted.function, planted.wrong(getattr(planted.module, planted.function)))
    assert any(status(case, planted.kernels) in (Status.MISMATCH, Status.NONFINITE) for case in concerned)


def test_merging_as_it_is_done_here_is_right_with_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the three planted merges do wrong is their maximum, and nothing else."""
    monkeypatch.setattr(extend, "merged", merged_below(the_maximum)(extend.merged))
    concerned = [case for case in SMOKE if merges(case)]
    assert concerned
    assert all(status(case, TRITON) is Status.PASS for case in concerned)
