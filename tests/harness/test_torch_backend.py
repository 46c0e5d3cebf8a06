"""The embedded default: PyTorch's own attention conforms wherever it does not decline."""

import pytest
import torch

from conformance.backends import load
from conformance.case import LAYOUTS, Case
from conformance.execute import run
from conformance.rounding import CACHE_DTYPES
from conformance.status import Status
from conformance.targets import Target

CPU = Target("cpu", "cpu", torch.device("cpu"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cache", CACHE_DTYPES)
@pytest.mark.parametrize("mode", ["causal", "noncausal"])
def test_smaller_caches_are_dequantised(mode: str, cache: str, layout: str) -> None:
    case = Case.parse(f"decode-{mode}-bf16-b2-q8-h8:2-d64-p16-kv200+77-cache.{cache}-{layout}-needle")
    verdict = run(case, load("torch"), CPU)
    assert verdict.status is Status.PASS, verdict


@pytest.mark.parametrize("order", ["ascending", "shared", "high"])
@pytest.mark.parametrize("regime", ["needle", "poison.table", "shifted", "large", "constant", "onehot"])
def test_every_page_order_and_regime_passes(order: str, regime: str) -> None:
    case = Case.parse(f"decode-causal-fp16-b3-q1+8+5-h4:2-d64-p16-kv165+64+63-pages.{order}-packed-{regime}")
    verdict = run(case, load("torch"), CPU)
    assert verdict.status is Status.PASS, verdict
