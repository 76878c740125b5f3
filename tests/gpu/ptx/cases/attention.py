"""Cases of attention.cu: ragged sequences over paged keys and values, for every head size.

Behind a sequence's end its last block has NaN, as another sequence's leftovers might; block table entries that a
window hides are no blocks at all; two sequences may share their first blocks; the last tile has nothing to do.
"""

import dataclasses

import numpy as np

from case import Case
from units import HEAD_SIZES

from .values import bf16, floats, generator, unwritten

FILE = "attention.cu"
PAGE = 16
ROWS = 64
SEGMENT = 256
THREADS = 128
NO_BLOCK = 0xFFFFFFFF
NAN = 0x7FC0
# attention_whole exists up to this head size; larger heads always take attention_split.
LARGEST_WHOLE = 128


@dataclasses.dataclass(frozen=True)
class Shape:
    """`spans` has (new tokens, tokens before them) of each sequence."""

    title: str
    spans: tuple
    heads: int
    kv_heads: int
    window: int = 0
    soft_cap: float = 0.0
    spread: float = 1.0
    shares: bool = False


SHAPES = (
    Shape("a chunk, a decoding row, both in company", ((37, 0), (1, 300), (5, 513)), 8, 2),
    Shape("page and segment edges", ((20, 250), (1, 63), (1, 64), (1, 255), (1, 256)), 4, 4),
    Shape("one key head, a window over a segment edge", ((33, 511), (1, 767)), 8, 1, window=100),
    Shape("a window of 7 and a soft cap", ((3, 0), (17, 129)), 6, 2, window=7, soft_cap=30.0),
    Shape("shared blocks, large scores", ((9, 64), (5, 64)), 4, 2, spread=8.0, shares=True),
)
QUICK = Shape("mixed", ((11, 250), (1, 0), (3, 64)), 6, 2, window=90, soft_cap=20.0)


def inputs(shape: Shape, head: int) -> dict:
    random = generator("attention", shape, head)
    group = shape.heads // shape.kv_heads
    tables, tiles, first_row, blocks = [], [], 0, 1
    ends = []
    for count, context in shape.spans:
        begin, pages = len(tables), -(-(count + context) // PAGE)
        if shape.shares and begin:
            shared = context // PAGE
            tables += tables[:shared]
            pages -= shared
        tables += range(blocks, blocks + pages)
        blocks += pages
        ends.append((begin, count + context, context))
        for row in range(0, count * group, ROWS):
            tiles.append((first_row, row, min(ROWS, count * group - row), context, begin))
        first_row += count
    tiles.append((0, 0, 0, 0, 0))
    order = np.concatenate([[0], 1 + random.permutation(blocks - 1)])
    tables = order[np.array(tables)].astype(np.uint32)
    cache = (blocks, shape.kv_heads, PAGE, head)
    keys, values = bf16(random, *cache, spread=shape.spread), bf16(random, *cache)
    keys[0], values[0] = NAN, NAN
    for begin, end, context in ends:
        if end % PAGE:
            last = tables[begin + end // PAGE]
            keys[last, :, end % PAGE :], values[last, :, end % PAGE :] = NAN, NAN
        if shape.window and context + 1 > shape.window:
            tables[begin : begin + (context + 1 - shape.window) // PAGE] = NO_BLOCK
    width = (shape.heads + 2 * shape.kv_heads) * head
    segments = max(-(-end // SEGMENT) for _, end, _ in ends)
    return {
        "qkv": floats(random, first_row, width, spread=shape.spread),
        "keys": keys,
        "values": values,
        "tables": tables,
        "tiles": np.array(tiles, np.uint32),
        "out": unwritten(np.uint16, first_row, shape.heads, head),
        "partial": unwritten(np.float32, first_row * shape.heads * segments * (head + 2)),
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "qkv_width": width,
        "window": shape.window,
        "segments": segments,
        "scale": float(np.float32(head**-0.5)),
        "soft_cap": shape.soft_cap,
    }


def of_shape(shape: Shape, head: int, shared_bytes: int, quick: bool) -> list:
    arguments = inputs(shape, head)
    tiles, kv_heads, segments = len(arguments["tiles"]), shape.kv_heads, arguments["segments"]
    title = f"heads of {head}, {shape.title}"
    found = []
    if head <= LARGEST_WHOLE:
        grid = (tiles, kv_heads, 1)
        found.append(
            Case(
                f"attention_whole_{head}",
                title,
                FILE,
                grid,
                THREADS,
                {**arguments, "partial": None},
                ("out",),
                head,
                shared_bytes,
                quick,
            )  # fmt: skip
        )
    fold = Case(f"attention_fold_{head}", title, FILE, (tiles, kv_heads, ROWS), 32, arguments, ("out",), head)
    grid = (tiles, kv_heads, segments)
    found.append(
        Case(
            f"attention_split_{head}",
            title,
            FILE,
            grid,
            THREADS,
            arguments,
            ("partial",),
            head,
            shared_bytes,
            quick,
            then=fold,
        )  # fmt: skip
    )
    return found


def cases(shared_bytes) -> list:
    found = []
    for head in HEAD_SIZES:
        found += of_shape(QUICK, head, shared_bytes(head), head in (64, 80, 256))
        for shape in SHAPES:
            found += of_shape(shape, head, shared_bytes(head), False)
    return found
