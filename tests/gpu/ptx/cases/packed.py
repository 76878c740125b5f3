"""Cases of packed.cu: both widths, scales with and without bases, one or two groups in a tile, minimums, tails.

Integers are any bits, since every pattern is a weight; the emulator's own checks hold their meaning.
"""

import dataclasses

import numpy as np

from case import Case, Nested

from .values import bf16, floats, generator, unwritten

FILE = "packed.cu"
THREADS = 256
TILE_OUTPUTS, TILE_INPUTS, BASE_INPUTS, BLOCK_ROWS = 16, 32, 256, 16


@dataclasses.dataclass(frozen=True)
class Format:
    name: str
    bits: int
    groups: int = 1
    has_minimum: bool = False
    has_bases: bool = False
    zero: int = 0


FORMATS = (
    Format("q8_0", 8),
    Format("q5_1", 8, has_minimum=True),
    Format("q6_k", 8, groups=2, has_bases=True),
    Format("q4_0", 4, zero=8),
    Format("q4_1", 4, has_minimum=True),
    Format("q4_k", 4, has_minimum=True, has_bases=True),
    Format("q2_k", 4, groups=2, has_minimum=True, has_bases=True),
)


def halves(random, count: int) -> np.ndarray:
    """Pairs of f16 in 32 bits: a scale, and a minimum that is negative."""
    scale = np.float16(random.uniform(2.0**-9, 2.0**-7, count)).view(np.uint16).astype(np.uint32)
    minimum = np.float16(-random.uniform(2.0**-9, 2.0**-7, count)).view(np.uint16).astype(np.uint32)
    return scale | (minimum << np.uint32(16))


def matrix(random, shape: Format, outputs: int, inputs: int) -> Nested:
    tiles, input_tiles = -(-outputs // TILE_OUTPUTS), inputs // TILE_INPUTS
    factors = tiles * input_tiles * shape.groups * TILE_OUTPUTS
    bases = tiles * (inputs // BASE_INPUTS) * TILE_OUTPUTS
    words = shape.bits // 2
    return Nested(
        "PackedMatrix",
        {
            "integers": random.integers(0, 2**32, tiles * input_tiles * 32 * words, dtype=np.uint32),
            "factors": random.integers(0, 2**16, factors).astype(np.uint16)
            if shape.has_bases
            else halves(random, factors),
            "bases": halves(random, bases) if shape.has_bases else None,
            "outputs": outputs,
            "inputs": inputs,
            "zero": shape.zero,
            "groups": shape.groups,
            "has_minimum": int(shape.has_minimum),
            "pad": 0,
        },
    )


def product(shape: Format, outputs: int, inputs: int, rows: int, add: bool, quick: bool) -> Case:
    random = generator("packed_product", shape, outputs, inputs, rows)
    width = outputs + 3
    arguments = {
        "weights": matrix(random, shape, outputs, inputs),
        "x": bf16(random, rows, inputs),
        "out": floats(random, rows, width) if add else unwritten(np.float32, rows, width),
        "rows": rows,
        "out_width": width,
        "add": int(add),
        "pad": 0,
    }
    title = f"{shape.name}, {outputs} outputs, {inputs} inputs, {rows} rows{', added' if add else ''}"
    grid = (-(-outputs // TILE_OUTPUTS), -(-rows // BLOCK_ROWS), 1)
    return Case(f"packed_product_{shape.bits}", title, FILE, grid, THREADS, arguments, ("out",), quick=quick)


def expansion(shape: Format, outputs: int, inputs: int, quick: bool) -> Case:
    random = generator("packed_expand", shape, outputs, inputs)
    arguments = {
        "weights": matrix(random, shape, outputs, inputs),
        "out": unwritten(np.uint16, outputs, inputs),
    }
    title = f"{shape.name}, {outputs} outputs, {inputs} inputs"
    grid = (-(-outputs // TILE_OUTPUTS), -(-inputs // BASE_INPUTS), 1)
    return Case(f"packed_expand_{shape.bits}", title, FILE, grid, THREADS, arguments, ("out",), quick=quick)


def cases() -> list:
    found = []
    for number, shape in enumerate(FORMATS):
        quick = shape.name in ("q6_k", "q4_1")
        found.append(product(shape, 37, 512, 1 + number, False, quick))
        found.append(product(shape, 16, 1280, 19, True, False))
        found.append(expansion(shape, 37, 512, quick))
    # Inputs that are no multiple of 256, where scales have no bases.
    found += [product(FORMATS[0], 20, 96, 9, False, False), expansion(FORMATS[3], 20, 96, False)]
    return found
