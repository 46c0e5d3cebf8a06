"""vLLM's own ROCm attention backend as a system under test: its metadata builder, its metadata, its `forward`.

Nothing of `vllm.v1.attention.backends.rocm_aiter_fa` is replaced. What stands in for what a machine lacks is around it:

| stands in | for | where | module |
| --- | --- | --- | --- |
| vLLM's ROCm platform, told that memory cannot be pinned | the one that vLLM finds | no ROCm | `platform` |
| AITER's Triton `flash_attn_varlen_func` | CK's, `aiter.flash_attn_varlen_func` | no build for ROCm | `kernels` |
| AITER's `unified_attention` | HIP's `torch.ops.aiter.paged_attention_v1` | the same | `kernels` |
| vLLM's Triton `merge_attn_states` | its own in HIP | no build of vLLM's operators | `kernels` |
| objects with the numbers that a builder reads | the configuration of an engine and a model | everywhere | `step` |
"""
