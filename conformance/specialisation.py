"""Which cases share compiled kernels, as far as a case's fields say: Triton compiles one anew for each of these."""

from conformance.case import Case


def of(case: Case) -> tuple[object, ...]:
    """Equal for cases that most likely run the same compiled kernels, and near in order where some are the same."""
    return (
        case.causal,  # which kernel
        case.dtype,
        case.cache_dtype,
        case.head_dim,
        case.page_size,
        case.gqa_ratio,
        tuple(side >= 0 for side in case.window),
        case.softcap > 0,
        case.alibi,
        case.sinks,
        (max(case.query_lens) - 1).bit_length(),  # 1, 2, up to 4, up to 8, ... queries
    )
