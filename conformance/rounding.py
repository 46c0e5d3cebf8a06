"""Which intermediates a kernel rounds, and to what: the declaration that its error budget follows from."""

from dataclasses import dataclass

DTYPES = ("bf16", "fp16")
"""Names of the element types of q, the output and, unless a case says otherwise, the caches."""

CACHE_DTYPES = ("e4m3fn", "e4m3fnuz", "e5m2")
"""Names of the smaller element types that a cache may have. Their values are exact in every dtype of `DTYPES`."""

UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24, "e4m3fn": 2.0**-4, "e4m3fnuz": 2.0**-4,
                 "e5m2": 2.0**-3}  # fmt: skip
"""Largest relative error of rounding to nearest: half the spacing of numbers just above 1."""

UNDERFLOW = {"bf16": 2.0**-126, "fp16": 2.0**-25, "fp32": 2.0**-126, "e4m3fn": 2.0**-10, "e4m3fnuz": 2.0**-11,
             "e5m2": 2.0**-17}  # fmt: skip
"""Largest absolute error of a number below the smallest normal one: half the spacing of float16's, or a float8's,
subnormal numbers. Those of float32, which the arithmetic is done in, GPUs flush to zero, and so those of bfloat16,
which are the same."""


@dataclass(frozen=True)
class RoundingProfile:
    """What a kernel rounds, apart from accumulating in float32. Every field names a dtype of `UNIT_ROUNDOFF`.

    A sum that rounds is one that Triton's `tl.sum` makes of 16-bit terms.
    """

    out: str  # the stored output
    p: str  # softmax weights in the product with V
    scaled_q: str | None = None  # q * scale * log2(e) before the product with K, where that is rounded
    parts: str | None = None  # the outputs of the parts that a call is answered in, stored before they are merged
    merged: str | None = None  # the running result after each merge of two parts but the last
    products: str | None = None  # q_d * k_d, each one, where a score is no dot product of a matrix unit
    score_sum: str | None = None  # the sum of those, after every addition
    split: str | None = None  # the outputs of a kernel's own splits of the keys, stored before it adds them up
    weight_sum: str | None = None  # the sum of a page's softmax weights, after every addition

    @classmethod
    def flash(cls, dtype: str) -> "RoundingProfile":
        """A flash-attention kernel on 16-bit input: float32 scores, weights rounded to the input's dtype."""
        return cls(out=dtype, p=dtype)
