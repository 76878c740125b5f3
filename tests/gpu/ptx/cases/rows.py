"""Cases of rows.cu: widths with and without tails, rows whose begin is not aligned, padded rows."""

import numpy as np

from case import Case

from .values import bf16, floats, generator, unwritten

FILE = "rows.cu"
ROW_THREADS = 256
PART = 1024
NO_SLOT = 0xFFFFFFFF
CACHE_BLOCK = 16


def parts(width: int) -> int:
    return -(-width // PART)


def embed(width: int, positions: bool, quick: bool) -> Case:
    random = generator("embed", width, positions)
    rows, vocabulary, places = 5, 11, 7
    tokens = random.integers(0, vocabulary, rows).astype(np.uint32)
    where = random.integers(0, places, rows).astype(np.uint32)
    tokens[-1] = where[-1] = 0  # a padded row
    arguments = {
        "table": bf16(random, vocabulary, width),
        "position_table": bf16(random, places, width) if positions else None,
        "tokens": tokens,
        "positions": where,
        "hidden": unwritten(np.float32, rows, width),
        "width": width,
        "scale": 45.25,
    }
    title = f"width {width}{', positions' if positions else ''}"
    return Case("embed", title, FILE, (rows, 1, 1), ROW_THREADS, arguments, ("hidden",), quick=quick)


def norm_rows(width: int, kind: int, spread: float, adds: bool, quick: bool) -> Case:
    random = generator("norm_rows", width, kind, spread, adds)
    rows = 3
    arguments = {
        "x": floats(random, rows, width, spread=spread) + np.float32(spread / 3),
        "weight": floats(random, width),
        "bias": floats(random, width) if kind == 1 else None,
        "rounded": None if adds else unwritten(np.uint16, rows, width),
        "sum": floats(random, rows, width),
        "width": width,
        "kind": kind,
        "eps": 1e-5,
    }
    title = f"width {width}, kind {kind}, values around {spread:g}{', added' if adds else ''}"
    outputs = ("sum",) if adds else ("rounded",)
    return Case("norm_rows", title, FILE, (rows, 1, 1), ROW_THREADS, arguments, outputs, quick=quick)


def norm_heads(head_dim: int, kind: int, quick: bool) -> Case:
    random = generator("norm_heads", head_dim, kind)
    rows, heads, kv_heads = 3, 4, 2
    width = (heads + 2 * kv_heads) * head_dim
    arguments = {
        "qkv": floats(random, rows, width),
        "weight": floats(random, heads + kv_heads, head_dim),
        "qkv_width": width,
        "head_dim": head_dim,
        "kind": kind,
        "eps": 1e-6,
    }
    title = f"heads of {head_dim}, kind {kind}"
    return Case("norm_heads", title, FILE, (rows, heads + kv_heads, 1), 32, arguments, ("qkv",), quick=quick)


def rope_store(head_dim: int, pairs: int, interleaved: int, quick: bool) -> Case:
    random = generator("rope_store", head_dim, pairs, interleaved)
    rows, heads, kv_heads, blocks, places = 6, 6, 2, 4, 40
    angles = random.uniform(0, 6.28, (places, max(pairs, 1)))
    slots = random.permutation(blocks * CACHE_BLOCK)[:rows].astype(np.uint32)
    slots[-1] = NO_SLOT
    positions = random.integers(0, places, rows).astype(np.uint32)
    positions[-1] = 0
    cache = (blocks, kv_heads, CACHE_BLOCK, head_dim)
    arguments = {
        "qkv": floats(random, rows, (heads + 2 * kv_heads) * head_dim),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "positions": positions,
        "slots": slots,
        "keys": unwritten(np.uint16, *cache),
        "values": unwritten(np.uint16, *cache),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "pairs": pairs,
        "interleaved": interleaved,
    }
    title = f"heads of {head_dim}, {pairs} pairs{', interleaved' if interleaved else ''}"
    outputs = ("qkv", "keys", "values")
    return Case("rope_store", title, FILE, (rows, 1, 1), ROW_THREADS, arguments, outputs, quick=quick)


def with_extremes(values: np.ndarray) -> np.ndarray:
    """Puts values into the first row at which activations saturate, overflow or are exact."""
    extremes = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 88.0, -88.0, 100.0, -100.0, 3e38, -3e38, np.inf, np.nan]
    count = min(len(extremes), values.shape[1])
    values[0, :count] = np.array(extremes[:count], np.float32)
    return values


def gate(width: int, activation: int, quick: bool) -> Case:
    random = generator("gate", width, activation)
    rows = 3
    both = np.concatenate([with_extremes(floats(random, rows, width, spread=4)), floats(random, rows, width)], axis=1)
    arguments = {
        "gate_up": both,
        "gated": unwritten(np.uint16, rows, width),
        "width": width,
        "activation": activation,
    }
    title = f"width {width}, activation {activation}"
    return Case("gate", title, FILE, (rows, parts(width), 1), ROW_THREADS, arguments, ("gated",), quick=quick)


def activate(width: int, activation: int, quick: bool) -> Case:
    random = generator("activate", width, activation)
    rows = 3
    values = with_extremes(floats(random, rows, width, spread=4))
    arguments = {"rows": values, "width": width, "activation": activation}
    title = f"width {width}, activation {activation}"
    return Case("activate", title, FILE, (rows, parts(width), 1), ROW_THREADS, arguments, ("rows",), quick=quick)


def add_bias(width: int, quick: bool) -> Case:
    random = generator("add_bias", width)
    rows = 3
    arguments = {"rows": floats(random, rows, width), "bias": floats(random, width), "width": width}
    grid = (rows, parts(width), 1)
    return Case("add_bias", f"width {width}", FILE, grid, ROW_THREADS, arguments, ("rows",), quick=quick)


def round_rows(width: int, quick: bool) -> Case:
    random = generator("round_rows", width)
    rows = 3
    values = with_extremes(floats(random, rows, width))
    # Halfway between two values of bf16: to the even one.
    values[1, : min(width, 4)] = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0x7F7FFFFF], np.uint32).view(np.float32)[
        : min(width, 4)
    ]
    arguments = {"x": values, "rounded": unwritten(np.uint16, rows, width), "width": width}
    grid = (rows, parts(width), 1)
    return Case("round_rows", f"width {width}", FILE, grid, ROW_THREADS, arguments, ("rounded",), quick=quick)


def keep_rows(words: int, quick: bool) -> Case:
    random = generator("keep_rows", words)
    rows = 9
    indices = np.array([0, 2, 3, 7], np.uint32)
    arguments = {
        "rows": random.integers(0, 2**32, (rows, words), dtype=np.uint32),
        "indices": indices,
        "count": len(indices),
        "words": words,
    }
    grid = (-(-words // ROW_THREADS), 1, 1)
    return Case("keep_rows", f"{words} words", FILE, grid, ROW_THREADS, arguments, ("rows",), quick=quick)


def cases() -> list:
    found = []
    for width in (8, 100, 1030, 2048):
        found += [embed(width, positions, width == 1030) for positions in (False, True)]
    for width in (5, 64, 1000, 2560):
        for kind in (0, 1):
            found.append(norm_rows(width, kind, 1.0, False, width == 1000))
            found.append(norm_rows(width, kind, 1.0, True, width == 5))
    found += [norm_rows(256, kind, spread, False, False) for kind in (0, 1) for spread in (1e-15, 1e15)]
    found += [norm_heads(dim, kind, dim == 80) for dim in (16, 64, 80, 128, 256) for kind in (0, 1)]
    for head_dim, pairs in ((64, 32), (64, 8), (80, 40), (96, 0), (128, 64), (256, 128)):
        found += [rope_store(head_dim, pairs, interleaved, head_dim == 64) for interleaved in (0, 1)]
    for width in (1, 7, 1024, 1501):
        found += [gate(width, activation, width == 1501) for activation in (0, 1, 2)]
        found += [activate(width, activation, width == 7) for activation in (0, 1, 2)]
        found += [add_bias(width, width == 7), round_rows(width, width == 1501)]
    found += [keep_rows(words, words == 300) for words in (1, 300, 1024)]
    return found
