"""The AITER-backed attention dispatch, standalone: what vLLM's ROCm backend does since PR 39703.

`MetadataBuilder` turns a scheduled batch into `AttentionMetadata`; `forward` picks AITER's kernels by it, and honours
`causal` on every path or refuses the batch.
"""

from conformance.dispatch.builder import MetadataBuilder
from conformance.dispatch.forward import forward, supports_non_causal
from conformance.dispatch.layer import AttentionLayer, Dispatched
from conformance.dispatch.metadata import AttentionMetadata, ScheduledBatch

__all__ = [
    "AttentionLayer",
    "AttentionMetadata",
    "Dispatched",
    "MetadataBuilder",
    "ScheduledBatch",
    "forward",
    "supports_non_causal",
]
