"""Inputs for every kernel, from seeded generators."""

from . import attention, logits, low_rank, packed, rows


def all_cases(shared_bytes) -> list:
    """`shared_bytes(head)` is what attention needs for heads of a size."""
    return [*rows.cases(), *low_rank.cases(), *logits.cases(), *packed.cases(), *attention.cases(shared_bytes)]
