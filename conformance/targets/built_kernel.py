"""What Triton's AMD backend made of a kernel: the resources that it takes of a compute unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from conformance.targets.hip_driver import WAVEFRONT

LDS = {"gfx942": 64 * 1024, "gfx950": 160 * 1024}
"""Bytes of local data share that one workgroup can have."""

MOST_THREADS = 1024
"""Of a workgroup, on every CDNA GPU."""


@dataclass(frozen=True)
class BuiltKernel:
    """One specialisation of a kernel, as built; registers are those of a lane, and sgprs those of a wavefront."""

    name: str
    vgprs: int
    """All of them: a lane's 512 hold the agprs too."""
    agprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int
    lds: int
    """Bytes a workgroup, those that Triton asks for at launch included."""
    scratch: int
    """Bytes a thread: where spilled registers go."""
    code: int
    """Bytes."""
    warps: int

    @classmethod
    def of(cls, compiled: Any) -> BuiltKernel:
        """That of Triton's `CompiledKernel`. Raises ValueError if its assembly does not say what it takes."""
        assembly = compiled.asm["amdgcn"]
        return cls(
            name=compiled.name,
            vgprs=_said(assembly, ".vgpr_count:"),
            agprs=_said(assembly, ".agpr_count:"),
            sgprs=_said(assembly, ".sgpr_count:"),
            vgpr_spills=_said(assembly, ".vgpr_spill_count:"),
            sgpr_spills=_said(assembly, ".sgpr_spill_count:"),
            lds=compiled.metadata.shared,
            scratch=_said(assembly, ".private_segment_fixed_size:"),
            code=_said(assembly, "; codeLenInByte ="),
            warps=compiled.metadata.num_warps,
        )

    def lacks(self, arch: str) -> str:
        """What a workgroup of this kernel needs and `arch` has not, with both numbers; "" if it fits."""
        if self.lds > LDS[arch]:
            return f"{self.name} needs {self.lds} bytes of LDS, and {arch} has {LDS[arch]}"
        if self.warps * WAVEFRONT > MOST_THREADS:
            return f"{self.name} needs {self.warps * WAVEFRONT} threads a workgroup, and {arch} has {MOST_THREADS}"
        return ""


def _said(assembly: str, key: str) -> int:
    """The number after `key`: the sum, where a kernel calls functions that are not inlined and have their own."""
    numbers = re.findall(rf"^\s*(?:- )?{re.escape(key)}\s*(\d+)\s*$", assembly, re.MULTILINE)
    if not numbers:
        raise ValueError(f"the assembly that Triton's AMD backend made does not say {key!r}")
    return sum(map(int, numbers))
