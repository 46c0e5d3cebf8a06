"""Regimes: what is done to random values so that a defect shows: a tolerance can only judge what inputs make matter.

| regime | what is made | what it shows |
| --- | --- | --- |
| `needle` | each query points at one key, where kernels go wrong | which key was read |
| `poison.pages` | NaN in pages that no sequence owns; unused table entries name one | another page read |
| `poison.tails` | NaN in the rows of a last page past its last key | a stale row let through, even with weight 0 |
| `poison.garbage` | huge finite values there | a stale row that is given weight |
| `poison.table` | table entries past a sequence's end are out of range | a page looked up that is not there |
| `shifted` | every key of a query gets the same logit on top, -150 to 150 | exponentials without the row maximum |
| `large` | queries and sinks ten times as large, V 256 times | weights near 0 and 1, a clamped output |
| `constant` | V is one vector a KV head, the first query 0 | weights that do not sum to 1, or a maximum of 0 |
| `onehot` | row j of V is 1 at dim j + head, modulo D, and 0 elsewhere | the weight of single keys |
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.block_tables import KeyRows, Pages
from conformance.case import Case
from conformance.needles import plant

GARBAGE = 3.0e4
"""Huge but finite: what a recycled page may hold. Formats that cannot hold it get three quarters of their largest."""

LARGEST_SHIFT = 150.0
"""exp(150) is no float32, and exp(-150) is 0 there."""

SHIFT_KEY = 16.0
"""What every key holds in the column that carries the shift; exact in every dtype."""

LARGE = 10.0
"""Times as large: logits, and sinks."""

LARGE_V = 256.0
"""Times as large: values, and so an output that only 16 bits hold; a smaller cache cannot hold them."""


@dataclass(frozen=True)
class Values:
    """What q, sinks and the pages hold before these are laid out, changed in place.

    q [T, Hq, D]; sinks [Hq] or None; k and v [pool, page_size, Hkv, D], as stored: a descale multiplies them.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    sinks: Tensor | None
    k_descale: float
    v_descale: float
    garbage: float


def garbage(dtype: torch.dtype) -> float:
    """A huge finite value of `dtype`."""
    return min(GARBAGE, 0.75 * torch.finfo(dtype).max)


def apply(case: Case, values: Values, pages: Pages, scale: float) -> None:
    """Make random values those of the case's regime."""
    regime, rows = case.regime, KeyRows.of(case, pages.table, pages.pool)
    if regime == "needle":
        plant(case, values.q, values.k, pages.table, values.k_descale, scale)
    elif regime == "poison.pages":
        spare = torch.ones(pages.pool, dtype=torch.bool)
        spare[pages.owned.long()] = False
        for pool in (values.k, values.v):
            pool[spare] = torch.nan
    elif regime in ("poison.tails", "poison.garbage"):
        spoil = torch.nan if regime == "poison.tails" else values.garbage
        values.k[rows.tails], values.v[rows.tails] = spoil, -spoil
    elif regime == "shifted":
        _shift(values, scale)
    elif regime == "large":
        _enlarge(case, values)
    elif regime == "constant":
        values.v[rows.keys] = values.v[0, 0].clone()
        values.q[0] = 0.0
    elif regime == "onehot":
        _one_hot(values, rows)


def _shift(values: Values, scale: float) -> None:
    """One column of q and k makes the offset: the same for all keys of a query, another for each query and head."""
    tokens, heads, _ = values.q.shape
    steps = torch.arange(tokens * heads, dtype=torch.float64).view(tokens, heads)
    offset = LARGEST_SHIFT * (2 * ((steps * 0.6180339887498949) % 1) - 1)  # spread evenly, whatever their number
    values.q[..., 0] = (offset / (scale * SHIFT_KEY)).to(values.q.dtype)
    values.k[..., 0] = SHIFT_KEY / values.k_descale


def _enlarge(case: Case, values: Values) -> None:
    values.q.mul_(LARGE)
    if values.sinks is not None:
        values.sinks.mul_(LARGE)
    if not case.cache_dtype:
        values.v.mul_(LARGE_V)


def _one_hot(values: Values, rows: KeyRows) -> None:
    _, _, heads, head_dim = values.v.shape
    dim = (rows.position[..., None] + torch.arange(heads)) % head_dim  # [pool, page_size, Hkv]
    rows_of_one = torch.nn.functional.one_hot(dim[rows.keys], head_dim) / values.v_descale
    values.v[rows.keys] = rows_of_one.to(values.v.dtype)
