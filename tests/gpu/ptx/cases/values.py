"""Random values that are worth computing with."""

import numpy as np

NOT_WRITTEN = 0x7FC1  # A NaN of bf16 that no kernel makes: marks places of outputs that must stay as they are.


def generator(*seed) -> np.random.Generator:
    """A generator of its own for each case, so that cases do not change when others come or go."""
    return np.random.default_rng([sum(map(ord, str(part))) for part in seed])


def floats(random, *shape, spread: float = 1.0) -> np.ndarray:
    return (random.standard_normal(shape) * spread).astype(np.float32)


def bf16(random, *shape, spread: float = 1.0) -> np.ndarray:
    bits = floats(random, *shape, spread=spread).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def unwritten(dtype, *shape) -> np.ndarray:
    if np.dtype(dtype) == np.uint16:
        return np.full(shape, NOT_WRITTEN, np.uint16)
    return (
        np.full(shape, 0xFFC12345, np.uint32).view(dtype) if np.dtype(dtype).itemsize == 4 else np.zeros(shape, dtype)
    )
