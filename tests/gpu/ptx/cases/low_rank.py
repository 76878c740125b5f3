"""Cases of low_rank.cu: rows with different adapters and with none, parts without an update, ranks with tails."""

import numpy as np

from case import Case, Records

from .values import bf16, floats, generator

FILE = "low_rank.cu"
PARTS = 3
NO_ADAPTER = 0xFFFFFFFF


def low_rank(inputs: int, ranks: tuple, outputs: tuple, quick: bool) -> Case:
    """`ranks` has one rank for each adapter; its second part has no update in the first adapter."""
    random = generator("low_rank", inputs, ranks, outputs)
    rows, max_rank = 5, max(ranks)
    parts = []
    for adapter, rank in enumerate(ranks):
        for part, count in enumerate(outputs):
            empty = adapter == 0 and part == 1
            parts.append(
                {
                    "a": None if empty else floats(random, rank, inputs),
                    "b": None if empty else floats(random, count, rank),
                    "rank": 0 if empty else rank,
                    "first_output": sum(outputs[:part]),
                    "outputs": count,
                    "pad": 0,
                }
            )
    # Names of arrays that structs point to are told apart by the number of their struct.
    records = Records("LowRankPart", parts)
    adapters = np.array([0, NO_ADAPTER, len(ranks) - 1, 0, NO_ADAPTER], np.uint32)
    inner = np.zeros((rows, PARTS, max_rank), np.float32)
    down = {
        "x": bf16(random, rows, inputs),
        "parts": records,
        "adapters": adapters,
        "inner": inner,
        "inputs": inputs,
        "max_rank": max_rank,
    }
    width = sum(outputs) + 8
    up = {
        "inner": inner,
        "parts": records,
        "adapters": adapters,
        "out": floats(random, rows, width),
        "out_width": width,
        "max_rank": max_rank,
    }
    title = f"{inputs} inputs, ranks {ranks}, outputs {outputs}"
    then = Case("low_rank_up", title, FILE, (rows, PARTS, -(-max(outputs) // 256)), 256, up, ("out",))
    return Case("low_rank_down", title, FILE, (rows, PARTS, 1), 128, down, ("inner",), quick=quick, then=then)


def cases() -> list:
    return [
        low_rank(64, (4, 9), (64, 32, 32), False),
        low_rank(130, (16, 1), (300, 70, 70), True),
        low_rank(515, (3,), (128, 257, 1), False),
    ]
