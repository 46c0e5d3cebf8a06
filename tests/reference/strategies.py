"""Hypothesis strategies for problems: the shapes and options are drawn, the numbers follow from a seed."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from tests.reference.problems import Problem, random_problem

modest = settings(deadline=None, derandomize=True, max_examples=100)
"""The same few examples on every machine, however slow."""

WINDOWS = st.tuples(st.integers(-1, 30), st.integers(-1, 30)) | st.just((-1, -1))


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    query_lens: st.SearchStrategy[int] = st.integers(0, 4),  # noqa: B008
    seq_lens: st.SearchStrategy[int] = st.integers(0, 40),  # noqa: B008
    **fixed: Any,
) -> Problem:
    """Ragged batches with any mix of options, `fixed` taken as given."""
    batch = draw(st.integers(1, 4))
    kv_heads = draw(st.integers(1, 3))
    options: dict[str, Any] = {
        "causal": draw(st.booleans()),
        "window": draw(WINDOWS),
        "softcap": draw(st.sampled_from([0.0, 0.5, 20.0])),
        "alibi": draw(st.booleans()),
        "sinks": draw(st.booleans()),
        "descale": draw(st.booleans()),
        "head_dim": draw(st.sampled_from([1, 2, 5, 8])),
    }
    return random_problem(
        [draw(query_lens) for _ in range(batch)],
        [draw(seq_lens) for _ in range(batch)],
        q_heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        seed=draw(st.integers(0, 2**16)),
        **(options | fixed),
    )
