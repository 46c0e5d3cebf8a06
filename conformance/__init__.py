"""Numerical conformance suite for the AITER-backed paged attention that vLLM uses on ROCm."""

__version__ = "0.1.0"
