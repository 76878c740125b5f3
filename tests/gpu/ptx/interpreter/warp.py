"""Instructions that the 32 threads of a warp execute together.

A decoder of this module gives a function that is called with whole warps only; the scheduler waits until all threads
that take part have come. Layouts are those of the PTX ISA, "Warp-level matrix instructions".
"""

import numpy as np

from . import floats
from .arithmetic import only
from .context import PREDICATE, U32
from .fault import Fault
from .parse import WithPredicate
from .registers import Type

WARP = 32
EVERYBODY = np.uint32(0xFFFFFFFF)
DECODERS = {}
F32 = Type("f", 32)
B32 = Type("b", 32)


class WarpStep:
    """`members(active)` gives for each active lane the mask of lanes that have to take part; None means all."""

    def __init__(self, run, members=None):
        self.run = run
        self.members = members


def decodes(name):
    def register(decoder):
        DECODERS[name] = decoder
        return decoder

    return register


def by_warp(values, active) -> np.ndarray:
    """The values of the active lanes as [warp, lane]."""
    values = np.asarray(values)
    if values.ndim == 0:
        values = np.full(active.lanes.size, values)
    elif not active.whole:
        values = values[active.lanes]
    return values.reshape(-1, WARP)


LANE = np.arange(WARP)
GROUP, THREAD = LANE >> 2, LANE & 3


def fragment_index(rows, columns, width):
    """For each place of a matrix: which (lane, register, half) holds it, given the places that each of those holds."""
    index = np.empty(rows.size, np.int64)
    index[(rows * width + columns).reshape(-1)] = np.arange(rows.size)
    return index


def mma_layout():
    """Places of A (16x16) and B (16x8) by [lane, register, half], and of C (16x8) by [lane, register]."""
    lane = LANE[:, None, None]
    group, thread = lane >> 2, lane & 3
    half = np.arange(2)[None, None, :]
    register = np.arange(4)[None, :, None]
    a = fragment_index(group + 8 * (register & 1) + 0 * half, 2 * thread + 8 * (register >> 1) + half, 16)
    register = np.arange(2)[None, :, None]
    b = fragment_index(2 * thread + 8 * register + half, group + 0 * register + 0 * half, 8)
    value = np.arange(4)[None, :]
    rows, columns = GROUP[:, None] + 8 * (value >> 1), 2 * THREAD[:, None] + (value & 1)
    return a, b, fragment_index(rows, columns, 8), (rows * 8 + columns).reshape(-1)


A_INDEX, B_INDEX, C_INDEX, C_PLACE = mma_layout()


def halves(registers) -> np.ndarray:
    """Registers [warp, lane] of two bf16 each, as f64 [warp, lane * register * half]."""
    stacked = np.stack(registers, axis=2)
    pairs = np.stack([stacked & np.uint32(0xFFFF), stacked >> np.uint32(16)], axis=3)
    return floats.from_bf16(pairs).astype(np.float64).reshape(pairs.shape[0], -1)


@decodes("mma")
def decode_mma(context, instruction):
    """D = A B + C for bf16; `rounding` says how sums are rounded, which no document of NVIDIA's promises."""
    shape = ("sync", "aligned", "m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32")
    if instruction.modifiers != shape:
        raise Fault(f"{instruction.where()}: a matrix product that the interpreter does not know")
    d, a, b, c = (operand.items for operand in instruction.operands)
    if (len(d), len(a), len(b), len(c)) != (4, 4, 2, 4):
        raise Fault(f"{instruction.where()}: a wrong number of registers")
    writers = [context.writer(item, F32) for item in d]
    a_readers = [context.reader(item, B32) for item in a]
    b_readers = [context.reader(item, B32) for item in b]
    c_readers = [context.reader(item, F32) for item in c]

    def run(active):
        left = halves([by_warp(read(active), active) for read in a_readers])[:, A_INDEX].reshape(-1, 16, 16)
        right = halves([by_warp(read(active), active) for read in b_readers])[:, B_INDEX].reshape(-1, 16, 8)
        begin = np.stack([by_warp(read(active), active) for read in c_readers], axis=2)
        begin = begin.reshape(-1, 128)[:, C_INDEX].astype(np.float64).reshape(-1, 16, 8)
        result = context.rounding.sum_of_products(left, right, begin).reshape(-1, 128)[:, C_PLACE].reshape(-1, WARP, 4)
        for place, put in enumerate(writers):
            put(active, context.spread(active, np.ascontiguousarray(result[:, :, place]).reshape(-1)))

    return WarpStep(run)


@decodes("ldmatrix")
def decode_ldmatrix(context, instruction):
    """Loads 8x8 matrices of 16-bit values; lanes 8i to 8i+7 have the addresses of the rows of matrix i."""
    only(instruction, "sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta")
    count = next((int(m[1]) for m in instruction.modifiers if m in ("x1", "x2", "x4")), 0)
    targets = instruction.operands[0].items
    if len(targets) != count:
        raise Fault(f"{instruction.where()}: a wrong number of registers")
    writers = [context.writer(item, B32) for item in targets]
    at = context.addresses(instruction.operands[1])
    transposed = "trans" in instruction.modifiers

    def run(active):
        lanes = active.lanes.reshape(-1, WARP)[:, : 8 * count].reshape(-1)
        offsets = at(active).reshape(-1, WARP)[:, : 8 * count].reshape(-1)
        matrices = context.shared.rows(lanes, offsets).reshape(-1, count, 8, 8)
        if transposed:
            matrices = matrices.transpose(0, 1, 3, 2)
        pairs = np.ascontiguousarray(matrices).reshape(-1, count, WARP, 2).astype(np.uint32)
        values = pairs[..., 0] | (pairs[..., 1] << np.uint32(16))
        for place, put in enumerate(writers):
            put(active, context.spread(active, np.ascontiguousarray(values[:, place]).reshape(-1)))

    return WarpStep(run)


def source_lanes(mode, distance, clamp):
    """The lane that each lane reads, and whether it is inside of the segment (PTX ISA, shfl.sync)."""
    lane = np.broadcast_to(LANE.astype(np.uint32), distance.shape)
    distance, end, segment = distance & 31, clamp & 31, (clamp >> 8) & 31
    last = (lane & segment) | (end & ~segment & 31)
    if mode == "up":
        source = lane.astype(np.int64) - distance
        inside = source >= last
    elif mode == "down":
        source = lane.astype(np.int64) + distance
        inside = source <= last
    elif mode == "bfly":
        source = (lane ^ distance).astype(np.int64)
        inside = source <= last
    else:
        source = ((lane & segment) | (distance & ~segment & 31)).astype(np.int64)
        inside = source <= last
    return np.where(inside, source, lane), inside


@decodes("shfl")
def decode_shuffle(context, instruction):
    only(instruction, "sync", "up", "down", "bfly", "idx")
    mode = next(m for m in instruction.modifiers if m in ("up", "down", "bfly", "idx"))
    result, source, distance, clamp, members = instruction.operands
    inside_writer = None
    if isinstance(result, WithPredicate):
        inside_writer = context.writer(result.predicate, PREDICATE)
        result = result.value
    put, read = context.writer(result, B32), context.reader(source, B32)
    read_distance, read_clamp = context.reader(distance, U32), context.reader(clamp, U32)
    read_members = context.reader(members, U32)

    def run(active):
        taking_part = by_warp(active.mask if active.whole else np.ones(context.count, bool), active)
        mask = by_warp(read_members(active), active)
        if not ((mask >> LANE.astype(np.uint32)) & 1)[taking_part].all():
            raise Fault("a thread executes a shuffle whose mask does not name it")
        sources, inside = source_lanes(
            mode, by_warp(read_distance(active), active), by_warp(read_clamp(active), active)
        )
        values = np.take_along_axis(by_warp(read(active), active), sources, axis=1)
        put(active, context.spread(active, values.reshape(-1)))
        if inside_writer:
            inside_writer(active, context.spread(active, inside.reshape(-1)))

    return WarpStep(run, read_members)


@decodes("vote")
def decode_vote(context, instruction):
    only(instruction, "sync", "ballot", "any", "all", "uni")
    read, read_members = (
        context.reader(operand, kind) for operand, kind in zip(instruction.operands[1:], (PREDICATE, U32), strict=True)
    )
    ballot = "ballot" in instruction.modifiers
    put = context.writer(instruction.operands[0], B32 if ballot else PREDICATE)
    weights = np.uint32(1) << LANE.astype(np.uint32)

    def run(active):
        votes = by_warp(read(active), active)
        if ballot:
            result = (votes * weights).sum(axis=1, dtype=np.uint32)
        elif "any" in instruction.modifiers:
            result = votes.any(axis=1)
        elif "all" in instruction.modifiers:
            result = votes.all(axis=1)
        else:
            result = votes.all(axis=1) | ~votes.any(axis=1)
        put(active, context.spread(active, np.repeat(result, WARP)))

    return WarpStep(run, read_members)


REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or}


@decodes("redux")
def decode_reduction(context, instruction):
    only(instruction, "sync", *REDUCTIONS)
    kind = next(k for k in map(_integer, instruction.modifiers) if k)
    function = next(REDUCTIONS[m] for m in instruction.modifiers if m in REDUCTIONS)
    read, read_members = context.reader(instruction.operands[1], kind), context.reader(instruction.operands[2], U32)
    put = context.writer(instruction.operands[0], kind)

    def run(active):
        result = function.reduce(by_warp(read(active), active), axis=1, dtype=kind.dtype)
        put(active, context.spread(active, np.repeat(result, WARP)))

    return WarpStep(run, read_members)


def _integer(modifier):
    return {"u32": U32, "s32": Type("s", 32), "b32": B32}.get(modifier)
