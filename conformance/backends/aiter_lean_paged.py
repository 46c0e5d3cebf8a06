"""AITER's `persistent_lean_attention_paged`: tiles of all heads and sequences, shared out evenly among programs.

A program whose sequence others finish waits for them on locks. The interpreter runs programs one after the other, so
that it would wait for ever: there, one program takes all tiles, and what merges their parts is not run.
"""

import torch
from torch import Tensor

from conformance.aiter_entries import Entry
from conformance.backends import Answer
from conformance.case import Case
from conformance.gathered import as_rows
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.status import Unsupported
from conformance.targets.hip_driver import COMPUTE_UNITS

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("lean_atten_paged", "persistent_lean_attention_paged")
prepare = _entry.prepare

WARPS, WAVES = 4, 2


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for the batch. A page is a tile, and it knows no lengths but numbers of pages."""
    (m, *others), page = set(case.query_lens), case.page_size
    _entry.decline(
        ("causal mask", case.causal and max(case.query_lens) > 1),
        ("queries of several lengths", bool(others)),
        ("number of queries but a power of two", m.bit_count() != 1),
        ("query heads that share a KV head", case.gqa_ratio > 1),
        ("head dimension but 16, 32, 64, 128 and 256", case.head_dim not in (16, 32, 64, 128, 256)),
        ("page size but a power of two", page.bit_count() != 1),
        ("mask for a last page that is not full", any(n % page for n in case.seq_lens)),
        ("sequences without keys", 0 in case.seq_lens),
        ("sliding window", max(case.window[0], -1 if m == 1 else case.window[1]) >= 0),
        ("softcap", case.softcap > 0),
        ("ALiBi", case.alibi),
        ("attention sinks", case.sinks),
        ("float8 queries", bool(case.q_dtype)),
        ("descale", bool(case.cache_dtype)),
    )
    k, v, step = as_rows(inputs.k_cache, inputs.v_cache)
    keys, tiles = sum(case.seq_lens), case.kv_heads * sum(case.pages)
    if step % page or keys > len(k):
        raise Unsupported("persistent_lean_attention_paged numbers pages by their size, in a pool that holds all keys")
    programs = min(_most_programs(inputs.q.device), tiles)
    part = torch.float32, inputs.q.device
    out = _entry(
        inputs.q.transpose(0, 1).contiguous(),
        k[:keys].transpose(0, 1),  # as long as all sequences together: the number of tiles is taken from it
        v[:keys].transpose(0, 1),
        _pages_of_every_head(case, inputs) * (step // page),
        *(_buffer((programs, m), *part), _buffer((programs, m), *part), _buffer((programs, m, case.head_dim), *part)),
        torch.zeros(programs, dtype=torch.int32, device=inputs.q.device),
        torch.tensor(case.pages, device=inputs.q.device).cumsum(0).int(),
        programs,
        m,
        page,
        case.batch,
        inputs.scale,
        WARPS,
        WAVES,
    )
    path = "lean" if programs > 1 else "lean.one"
    return Answer(out.transpose(0, 1), path=path, profile=RoundingProfile.flash(case.dtype))


def _most_programs(device: torch.device) -> int:
    if _entry.target_kind == "interpreter":
        return 1
    return COMPUTE_UNITS.get(_entry.arch) or torch.cuda.get_device_properties(device).multi_processor_count


def _pages_of_every_head(case: Case, inputs: Inputs) -> Tensor:
    """The pages of all sequences one after the other, once for each KV head, int32: the kernel has them by tile."""
    pages = torch.cat([inputs.block_table[b, :count] for b, count in enumerate(case.pages)])
    return pages.repeat(case.kv_heads)


def _buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device=device)
