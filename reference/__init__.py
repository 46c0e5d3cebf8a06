"""Paged-KV attention in float64 PyTorch: the definition against which every kernel is judged."""

from reference.attention import Attention, PartSums, RoundingSums, attend
from reference.parts import part_sums

__all__ = ["Attention", "PartSums", "RoundingSums", "attend", "part_sums"]
