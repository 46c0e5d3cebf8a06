"""How the dispatch calls each kernel, so that it can be held against what an AITER declares."""

from conformance.aiter_signatures import Passed

_VARLEN = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "dropout_p", "softmax_scale", "causal",
           "window_size", "alibi_slopes", "return_lse")  # fmt: skip

CONTRACTS = {
    "unified": Passed(0, ("q", "k", "v", "out", "cu_seqlens_q", "max_seqlen_q", "seqused_k", "max_seqlen_k",
                          "softmax_scale", "causal", "window_size", "block_table", "softcap", "q_descale", "k_descale",
                          "v_descale", "alibi_slopes", "sinks")),
    "kvcache": Passed(3, ("cache_seqlens", "softmax_scale", "causal", "window_size", "softcap", "q_descale",
                          "k_descale", "v_descale", "page_table", "return_softmax_lse")),
    "mha": Passed(3, (*_VARLEN, "sink")),
    "ck": Passed(0, ("q", "k", "v", *_VARLEN, "min_seqlen_q", "logits_soft_cap")),  # and sink_ptr, for sinks
    "paged": Passed(20),
}  # fmt: skip
"""By the kernel's name: so many arguments by position, then these by name."""
