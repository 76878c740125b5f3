"""Inputs for every kernel, from seeded generators."""

from . import attention, logits, low_rank, noise, packed, rows


def all_cases(shared_bytes) -> list:
    """`shared_bytes(head)` is what attention needs for heads of a size."""
    plain = (rows, low_rank, logits, packed, noise)
    return [*(case for module in plain for case in module.cases()), *attention.cases(shared_bytes)]
