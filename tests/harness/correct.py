"""Correct kernels in every declared rounding profile: the suite must never fail one."""

from tests.harness.flash import Flash
from tests.harness.parted import Parted

CORRECT: dict[str, Flash | Parted] = {
    "rounding P": Flash(),
    "rounding P and q": Flash(rounds_q=True),
    "rounding P, tiles of 16, split in 3": Flash(tile=16, splits=3),
    "rounding P and q, split in 5": Flash(splits=5, rounds_q=True),
    "P in float32, tiles of 128": Flash(keeps_p=True, tile=128),
    "P in float32 and q rounded, tiles of 64, split in 8": Flash(keeps_p=True, rounds_q=True, tile=64, splits=8),
    "extends in parts": Parted(),
    "extends in parts, the running result rounded": Parted(rounds_running=True),
}
