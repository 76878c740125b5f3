"""Cases of noise.cu: counters of which each half of the bits matters, and numbers of values with and without tails."""

import numpy as np

from case import Case

from .values import unwritten

FILE = "noise.cu"
THREADS = 256
VALUES = 4 * THREADS


def fill_noise(counter: int, count: int, scale: float, quick: bool) -> Case:
    arguments = {
        "out": unwritten(np.uint16, count + 7),
        "counter": np.uint64(counter),
        "count": count,
        "scale": scale,
    }
    grid = (-(-count // VALUES), 1, 1)
    title = f"{count} values from counter {counter:#x}"
    return Case("fill_noise", title, FILE, grid, THREADS, arguments, ("out",), quick=quick)


def cases() -> list:
    return [
        fill_noise(counter, count, scale, count == 2503)
        for counter in (1, 0x0123456789ABCDEF, 0xFFFFFFFFFFFFFFFF)
        for count, scale in ((1, 1.0), (1024, 0.0266 / 32768), (2503, 0.0266 / 32768))
    ]
