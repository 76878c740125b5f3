"""What a card may compute in its own way: the approximation of 2^x, and the sums inside of matrix products.

`Exact` is the model of the emulator, so results can be compared bit for bit. `LikeACard` is as coarse as cards are
known to be: a kernel whose results change much between both would be wrong on a card.
"""

import numpy as np

from . import floats


class Exact:
    """2^x correctly rounded; products summed in ascending order in f64 and rounded once."""

    @staticmethod
    def exp2(x: np.ndarray, flushes: bool) -> np.ndarray:
        return floats.exp2_approximate(x, flushes)

    @staticmethod
    def sum_of_products(left: np.ndarray, right: np.ndarray, begin: np.ndarray) -> np.ndarray:
        """begin + left right, for matrices [product, 16, 16], [product, 16, 8] and [product, 16, 8] in f64."""
        total = begin.copy()
        for k in range(left.shape[2]):
            total += left[:, :, k, None] * right[:, k, None, :]
        return total.astype(np.float32)


class LikeACard:
    """2^x with a relative error of up to 2^-22 (PTX ISA, ex2), which is always the same for the same x.

    Products are exact. Eight of them and the sum so far are aligned to the largest of the nine, cut off two bits below
    the 24 of f32, added, and cut off again: Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor
    cores", PeerJ Computer Science 7 (2021), for the A100. Later cards add more products at once, with as many bits.
    """

    GROUP = 8
    BITS = 26

    @staticmethod
    def exp2(x: np.ndarray, flushes: bool) -> np.ndarray:
        exact = floats.exp2_approximate(x, flushes)
        mixed = (np.ascontiguousarray(x, np.float32).view(np.uint32) * np.uint32(2654435761)) >> np.uint32(8)
        error = (mixed.astype(np.float64) / 2**23 - 1) * 2.0**-22
        # Powers of integers are exact on cards; their error would show in every factor of 1.
        whole = x == np.rint(x)
        return np.where(whole, exact, (exact * (1 + error)).astype(np.float32))

    @classmethod
    def sum_of_products(cls, left: np.ndarray, right: np.ndarray, begin: np.ndarray) -> np.ndarray:
        total = begin.astype(np.float32)
        for first in range(0, left.shape[2], cls.GROUP):
            some = slice(first, first + cls.GROUP)
            products = left[:, :, None, some] * right[:, some, :].transpose(0, 2, 1)[:, None]
            terms = np.concatenate([products, total[..., None].astype(np.float64)], axis=-1)
            _, exponents = np.frexp(np.abs(terms).max(axis=-1, keepdims=True))
            step = np.ldexp(1.0, exponents - cls.BITS)
            total = toward_zero((np.trunc(terms / step) * step).sum(axis=-1))
        return total


def toward_zero(x: np.ndarray) -> np.ndarray:
    nearest = x.astype(np.float32)
    return np.where(np.abs(nearest) > np.abs(x), np.nextafter(nearest, np.float32(0)), nearest)
