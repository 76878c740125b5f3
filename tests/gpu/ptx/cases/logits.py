"""Cases of logits.cu: rows with ties, with values that make a row unsound, with probes outside of the vocabulary."""

import numpy as np

from case import Case

from .values import floats, generator, unwritten

FILE = "logits.cu"
THREADS = 512
READING = np.dtype([("log_sum_exp", "f8"), ("max", "f4"), ("most_likely", "u4"), ("sound", "u4"), ("pad", "u4")])
TOP = np.dtype([("token", "u4"), ("logit", "f4")])
# The card's logarithm and the host's are different code, each within one unit in the last place.
LOGARITHM_ULPS = 4


def rows_of_logits(random, vocabulary: int) -> np.ndarray:
    rows = floats(random, 8, vocabulary, spread=5)
    last = vocabulary - 1
    rows[1, [vocabulary // 3, last]] = 90.0  # the lower of two equal ones wins
    rows[2, vocabulary // 2] = np.nan
    rows[3, last] = np.inf
    rows[4, :] = -np.inf
    rows[5, :] = -np.inf
    rows[5, last] = -3.0
    rows[6, :] = 0.25
    rows[7, ::2] *= np.float32(100)
    return rows


def read_logits(vocabulary: int, scale: float, soft_cap: float, quick: bool) -> Case:
    random = generator("read_logits", vocabulary, scale, soft_cap)
    logits = rows_of_logits(random, vocabulary)
    counts = random.integers(0, 5, len(logits))
    counts[0] = 700  # more than a block has threads
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    tokens = random.integers(0, vocabulary + 2, counts.sum()).astype(np.uint32)
    arguments = {
        "logits": logits,
        "probes": np.stack([firsts, counts], axis=1).astype(np.uint32),
        "probe_tokens": tokens,
        "readings": np.zeros(len(logits), READING),
        "probe_logits": unwritten(np.float32, len(tokens)),
        "vocab": vocabulary,
        "scale": scale,
        "soft_cap": soft_cap,
    }
    return Case(
        "read_logits",
        f"vocabulary {vocabulary}, scale {scale}, cap {soft_cap}",
        FILE,
        (len(logits), 1, 1),
        THREADS,
        arguments,
        ("logits", "readings", "probe_logits"),
        quick=quick,
        ulps={"readings.log_sum_exp": LOGARITHM_ULPS},
    )


def top_logits(vocabulary: int, count: int, quick: bool) -> Case:
    random = generator("top_logits", vocabulary, count)
    logits = rows_of_logits(random, vocabulary)
    arguments = {
        "logits": logits,
        "inverse_temperatures": np.array([1.0, 1 / 0.7, 0.5, 30.0] * 2),
        "top": np.zeros((len(logits), count), TOP),
        "weights": unwritten(np.float64, len(logits)),
        "vocab": vocabulary,
        "count": count,
    }
    title = f"{count} of {vocabulary}"
    return Case("top_logits", title, FILE, (len(logits), 1, 1), THREADS, arguments, ("top", "weights"), quick=quick)


def cases() -> list:
    readings = [(1000, 1.0, 0.0), (4099, 1.0, 30.0), (2050, 0.0625, 0.0), (7, 2.0, 0.5)]
    found = [read_logits(vocabulary, scale, cap, vocabulary == 4099) for vocabulary, scale, cap in readings]
    found += [top_logits(vocabulary, count, count == 40) for vocabulary, count in ((1000, 1), (4099, 40), (300, 256))]
    return found
