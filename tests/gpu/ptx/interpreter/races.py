"""Finds memory that two threads use, one of them to write, with nothing that orders them.

Threads of a block are ordered by barriers, and blocks of a launch by nothing. A place remembers the tag of who wrote it
last and of who read it last: (block | barriers passed | thread). A launch begins with tags of 0, which is nobody.
"""

import numpy as np

from .fault import Fault

# The finest piece of memory that is told apart, in bytes.
GRANULE = 2
THREAD_BITS = 11
BLOCK_SHIFT = 40
# Numbers above those of all threads: several threads, and atomic operations, which may meet one another.
SEVERAL = (1 << THREAD_BITS) - 1
ATOMIC = SEVERAL - 1
# A number above those of all blocks.
SEVERAL_BLOCKS = (1 << (62 - BLOCK_SHIFT)) - 1


def tags(blocks: np.ndarray, barriers: np.ndarray, threads: np.ndarray) -> np.ndarray:
    first = (blocks.astype(np.int64) << BLOCK_SHIFT) | (barriers.astype(np.int64) << THREAD_BITS)
    return first | (threads.astype(np.int64) + 1)


def as_atomic(tag: np.ndarray) -> np.ndarray:
    return (tag >> THREAD_BITS << THREAD_BITS) | ATOMIC


class Races:
    """Who used each granule of a piece of memory. Granules are [access, granule], tags [access, 1]."""

    def __init__(self, what: str, size: int):
        self.what = what
        self.writers = np.zeros(-(-size // GRANULE), np.int64)
        self.readers = np.zeros_like(self.writers)

    def forget(self) -> None:
        self.writers[:] = 0
        self.readers[:] = 0

    @staticmethod
    def granules(offsets: np.ndarray, size: int) -> np.ndarray:
        return (offsets // GRANULE)[:, None] + np.arange(max(size // GRANULE, 1))

    @staticmethod
    def unordered(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        other_block = old >> BLOCK_SHIFT != new >> BLOCK_SHIFT
        return (old != 0) & (old != new) & (other_block | (old >> THREAD_BITS == new >> THREAD_BITS))

    def read(self, at: np.ndarray, tag: np.ndarray) -> None:
        if self.unordered(self.writers[at], tag).any():
            raise Fault(f"{self.what} is read that another thread has written, with no barrier between them")
        old = self.readers[at]
        several = self.unordered(old, tag)
        self.readers[at] = tag
        now = self.readers[at]
        # Threads that read one place in the same step.
        several |= now != tag
        if several.any():
            blocks = (several & ((old != 0) & (old >> BLOCK_SHIFT != tag >> BLOCK_SHIFT))) | (
                now >> BLOCK_SHIFT != tag >> BLOCK_SHIFT
            )
            together = np.where(blocks, np.int64(SEVERAL_BLOCKS) << BLOCK_SHIFT, tag | SEVERAL)
            self.readers[at[several]] = together[several]
            self.readers[at[blocks]] = np.int64(SEVERAL_BLOCKS) << BLOCK_SHIFT

    def write(self, at: np.ndarray, tag: np.ndarray) -> None:
        if self.unordered(self.readers[at], tag).any():
            raise Fault(f"{self.what} is written that another thread has read, with no barrier between them")
        if self.unordered(self.writers[at], tag).any():
            raise Fault(f"two threads write one place of {self.what}, with no barrier between them")
        self.writers[at] = tag
        if (self.writers[at] != tag).any():
            raise Fault(f"two threads write one place of {self.what} at once")

    def add(self, at: np.ndarray, tag: np.ndarray) -> None:
        atomic = as_atomic(tag)
        if self.unordered(self.writers[at], atomic).any() or self.unordered(self.readers[at], atomic).any():
            raise Fault(f"{self.what} is used with and without atomic operations, with no barrier between them")
        self.writers[at] = atomic

    def is_written(self, at: np.ndarray) -> bool:
        """Whether somebody has written all of it."""
        return bool((self.writers[at] != 0).all())
