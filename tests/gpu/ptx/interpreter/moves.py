"""Instructions that move values: between registers, and between registers and memory."""

import numpy as np

from .arithmetic import decodes, only, types_of
from .fault import Fault
from .memory import LOCAL_WINDOW, SHARED_WINDOW
from .parse import Symbol, Vector
from .registers import Type

SPACES = ("global", "shared", "local", "param", "const")
# What may stand in a load or store without a change of its result here.
HINTS = ("nc", "volatile", "relaxed", "weak", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "cta", "gpu", "L1::no_allocate")


@decodes("mov")
def decode_move(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    to, source = instruction.operands
    if isinstance(source, Vector):
        return decode_join(context, kind, to, source.items)
    if isinstance(to, Vector):
        return decode_cut(context, kind, to.items, source)
    read, put = context.reader(source, kind), context.writer(to, kind)
    return lambda active: put(active, read(active))


def decode_join(context, kind, to, parts):
    """mov.b32 %r, {%low, %high}"""
    part = Type("b", kind.width // len(parts))
    readers = [context.reader(item, part) for item in parts]
    put = context.writer(to, kind)

    def run(active):
        value = np.zeros(context.count, kind.dtype)
        for place, read in enumerate(readers):
            value |= np.asarray(read(active)).astype(kind.dtype) << kind.dtype.type(place * part.width)
        put(active, value)

    return run


def decode_cut(context, kind, parts, source):
    """mov.b32 {%low, %high}, %r"""
    part = Type("b", kind.width // len(parts))
    read = context.reader(source, kind)
    writers = [context.writer(item, part) for item in parts]

    def run(active):
        value = np.asarray(read(active))
        for place, put in enumerate(writers):
            put(active, (value >> kind.dtype.type(place * part.width)).astype(part.dtype))

    return run


@decodes("cvta")
def decode_generic_address(context, instruction):
    only(instruction, "to", *SPACES)
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
    space = next(m for m in instruction.modifiers if m in SPACES)
    distance = np.uint64(window.get(space, 0))
    (kind,) = types_of(instruction)
    read, put = context.reader(instruction.operands[1], kind), context.writer(instruction.operands[0], kind)
    if "to" in instruction.modifiers:
        return lambda active: put(active, read(active) - distance)
    return lambda active: put(active, read(active) + distance)


class Access:
    """What a load or store says: space, type, and how many values stand beside one another."""

    def __init__(self, instruction):
        modifiers = [m.split("::")[0] if m.startswith("shared") else m for m in instruction.modifiers]
        spaces = [m for m in modifiers if m in SPACES]
        self.space = spaces[0] if spaces else "generic"
        (self.kind,) = types_of(instruction)
        self.count = 4 if "v4" in modifiers else 2 if "v2" in modifiers else 1
        for modifier in modifiers:
            hint = modifier in HINTS or modifier.startswith("L2::")
            if not hint and modifier not in (*SPACES, "v2", "v4", f"{self.kind.kind}{self.kind.width}"):
                raise Fault(f"{instruction.where()}: .{modifier} is unknown to the interpreter")
        self.width = self.kind.width // 8


def spaces_of(addresses):
    """For each address space that generic addresses are in: its name, which addresses, and its window's begin."""
    windows = addresses >> np.uint64(40)
    shared, local = windows == SHARED_WINDOW >> 40, windows == LOCAL_WINDOW >> 40
    for space, which, begin in (
        ("shared", shared, SHARED_WINDOW),
        ("local", local, LOCAL_WINDOW),
        ("global", ~(shared | local), 0),
    ):
        if which.any():
            yield space, which, np.uint64(begin)


def load(context, space, lanes, addresses, access):
    if space == "generic":
        values = np.empty((lanes.size, access.count), access.kind.bits)
        for inner, which, begin in spaces_of(addresses):
            values[which] = load(context, inner, lanes[which], addresses[which] - begin, access)
        return values
    if space in ("global", "const"):
        return context.memory.load(addresses, access.width, access.count, context.tags(lanes))
    memory = context.shared if space == "shared" else context.local
    return memory.load(lanes, addresses, access.width, access.count)


def store(context, space, lanes, addresses, values):
    if space == "generic":
        for inner, which, begin in spaces_of(addresses):
            store(context, inner, lanes[which], addresses[which] - begin, values[which])
    elif space == "global":
        context.memory.store(addresses, values, context.tags(lanes))
    else:
        memory = context.shared if space == "shared" else context.local
        memory.store(lanes, addresses, values)


@decodes("ld")
def decode_load(context, instruction):
    access = Access(instruction)
    targets = instruction.operands[0]
    items = targets.items if isinstance(targets, Vector) else (targets,)
    writers = [context.writer(item, access.kind) for item in items]
    if access.space == "param":
        return decode_parameter(context, instruction.operands[1], access, writers)
    at = context.addresses(instruction.operands[1])

    def run(active):
        values = load(context, access.space, active.lanes, at(active), access)
        for place, put in enumerate(writers):
            column = np.ascontiguousarray(values[:, place]).view(access.kind.dtype)
            put(active, context.spread(active, column))

    return run


def decode_parameter(context, address, access, writers):
    symbol = address.base
    if not isinstance(symbol, Symbol):
        raise Fault("a parameter is read through a register, which the interpreter does not know")
    begin = context.symbols[symbol.name] + address.offset

    def run(active):
        end = begin + access.width * access.count
        if end > context.parameters.size or begin % access.width:
            raise Fault(f"parameter bytes {begin}..{end} of {context.parameters.size}")
        values = np.frombuffer(context.parameters[begin:end].tobytes(), access.kind.dtype)
        for value, put in zip(values, writers, strict=True):
            put(active, value)

    return run


@decodes("st")
def decode_store(context, instruction):
    access = Access(instruction)
    sources = instruction.operands[1]
    items = sources.items if isinstance(sources, Vector) else (sources,)
    readers = [context.reader(item, access.kind) for item in items]
    at = context.addresses(instruction.operands[0])

    def run(active):
        lanes = active.lanes
        values = np.empty((lanes.size, access.count), access.kind.bits)
        for place, read in enumerate(readers):
            column = np.asarray(read(active), access.kind.dtype).view(access.kind.bits)
            values[:, place] = column if column.ndim == 0 or active.whole else column[lanes]
        store(context, access.space, lanes, at(active), values)

    return run


@decodes("atom", "red")
def decode_atomic(context, instruction):
    """atom.shared.add: one indivisible step. Threads come in the order of their numbers."""
    kinds = types_of(instruction)
    modifiers = set(instruction.modifiers) - {"relaxed", "cta"}
    if modifiers != {"shared", "add", f"{kinds[0].kind}{kinds[0].width}"} or kinds[0].is_float:
        raise Fault(f"{instruction.where()}: an atomic operation that the interpreter does not know")
    (kind,) = kinds
    operands = instruction.operands[-2:]
    at, read = context.addresses(operands[0]), context.reader(operands[1], kind)
    put = context.writer(instruction.operands[0], kind) if instruction.name == "atom" else None

    def run(active):
        values = np.asarray(read(active))
        values = np.full(active.lanes.size, values) if values.ndim == 0 else values[active.lanes]
        before = context.shared.add(active.lanes, at(active), values)
        if put:
            put(active, context.spread(active, before))

    return run


@decodes("membar", "fence", "prefetch", "griddepcontrol")
def decode_nothing(context, instruction):
    """Order among threads is what barriers give here; a fence adds nothing to it."""
    return lambda active: None


@decodes("cp")
def decode_copy(context, instruction):
    """cp.async: a copy of 4, 8 or 16 bytes from global to shared memory beside the thread's other work."""
    modifiers = [m.split("::")[0] for m in instruction.modifiers]
    if modifiers[:1] != ["async"] or set(modifiers) - {"async", "cg", "ca", "shared", "global", "L2", "commit_group",
                                                       "wait_group", "wait_all"}:  # fmt: skip
        raise Fault(f"{instruction.where()}: a copy that the interpreter does not know")
    if "commit_group" in modifiers:
        return lambda active: context.copies.commit(active.lanes)
    if "wait_group" in modifiers:
        left = instruction.operands[0].bits
        return lambda active: context.copies.wait(active.mask, left)
    if "wait_all" in modifiers:
        return lambda active: context.copies.wait(active.mask, -1)
    size = instruction.operands[2].bits
    if size not in ((16,) if "cg" in modifiers else (4, 8, 16)):
        raise Fault(f"{instruction.where()}: cp.async does not copy {size} bytes")
    to, source = map(context.addresses, instruction.operands[:2])
    wanted = instruction.operands[3:]
    read_size = context.reader(wanted[0], Type("u", 32)) if wanted else lambda active: np.uint32(size)

    def run(active):
        lanes = active.lanes
        sizes = np.asarray(read_size(active))
        sizes = np.full(lanes.size, sizes) if sizes.ndim == 0 else sizes[lanes]
        if (sizes > size).any():
            raise Fault(f"cp.async of {size} bytes is told to read {int(sizes.max())}")
        data = np.zeros((lanes.size, size), np.uint8)
        reads = sizes > 0
        if reads.any():
            cells = context.memory.load(source(active)[reads], 4, size // 4, context.tags(lanes[reads]))
            data[reads] = cells.view(np.uint8)
            data[np.arange(size)[None, :] >= sizes[:, None]] = 0
        context.copies.start(lanes, to(active), data)

    return run
