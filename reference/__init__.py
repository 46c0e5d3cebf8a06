"""Paged-KV attention in float64 PyTorch: the definition against which every kernel is judged."""

from reference.attention import Attention, RoundingSums, attend

__all__ = ["Attention", "RoundingSums", "attend"]
