"""The small floating formats that NumPy lacks: bfloat16 and float8, as stored bits and as float32 values.

The meaning of every bit pattern, and of every rounding, is torch's: a float32 rounds to the nearest, ties to even; a
NaN stays a NaN; and bfloat16 overflows to infinity. What a float8 conversion does *beyond the largest finite value* is
not settled between torch and hardware (clamp, infinity or NaN, by instruction and mode): here it is torch's answer, and
no verdict should rest on it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

FLOAT8 = {
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
    "fp8e4b8": torch.float8_e4m3fnuz,
    "fp8e5b16": torch.float8_e5m2fnuz,
}
"""Triton's names of the float8 formats that torch has (Triton's `fp8e4b15` has no counterpart)."""

FORMATS = frozenset({"bf16", *FLOAT8})
"""Triton's names of every format that `widen` and `narrow` know."""


def widen(bits: np.ndarray, format: str) -> np.ndarray:
    """The float32 values of stored `bits` (uint16 for bf16, uint8 for float8); exact."""
    if format == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _float8_values(format)[bits]


def narrow(values: np.ndarray, format: str) -> np.ndarray:
    """The stored bits nearest to `values` (rounded to float32 first where they are wider); ties go to even."""
    values = np.asarray(values, dtype=np.float32)
    if format == "bf16":
        return _bfloat16_bits(values)
    # torch converts contiguous memory; `reshape` gives back a shape of rank 0.
    nearest = torch.from_numpy(np.array(values, order="C", ndmin=1)).to(FLOAT8[format])
    return nearest.view(torch.uint8).numpy().reshape(values.shape)


def truncate_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bfloat16 bits of float32 `values` rounded towards zero."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return np.where(np.isnan(values), _quiet(bits), bits >> np.uint32(16)).astype(np.uint16)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    # Adding just under half of the last place kept, plus that place's own bit, carries exactly when the nearest even is
    # above. Infinity is a fixed point, and the largest finite values carry into it.
    to_nearest = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    not_a_number = np.isnan(values)
    if not_a_number.any():
        to_nearest = np.where(not_a_number, _quiet(bits), to_nearest)
    return to_nearest.astype(np.uint16)


def _quiet(bits: np.ndarray) -> np.ndarray:
    """A NaN's upper half with the quiet bit set: a payload in the lower half alone would truncate to infinity."""
    return (bits >> np.uint32(16)) | np.uint32(0x0040)


@cache
def _float8_values(format: str) -> np.ndarray:
    every_pattern = torch.arange(256, dtype=torch.uint8)
    return every_pattern.view(FLOAT8[format]).to(torch.float32).numpy()
