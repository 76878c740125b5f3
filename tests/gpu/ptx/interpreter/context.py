"""What instructions act on: registers, memory, and the numbers of the threads of the blocks that run together."""

import numpy as np

from .fault import Fault
from .memory import AsyncCopies, LocalMemory, SharedMemory, padded
from .parse import Address, Immediate, Register, Symbol
from .races import tags
from .registers import RegisterFile, Type

U32 = Type("u", 32)
U64 = Type("u", 64)
PREDICATE = Type("pred", 1)


class Context:
    """The state of `blocks` blocks of `threads` threads each. A lane is a thread, numbered through all blocks."""

    def __init__(self, entry, memory, symbols, shape):
        self.entry = entry
        self.memory = memory
        self.blocks = shape.blocks
        self.threads = shape.threads
        self.grid = shape.grid
        self.rounding = shape.rounding
        self.count = self.blocks * self.threads
        self.symbols = dict(symbols)
        shared_size, local_size = self._place_variables(shape.shared_bytes)
        self.registers = RegisterFile(entry.register_types, self.count)
        self.shared = SharedMemory(self.blocks, self.threads, shared_size)
        self.local = LocalMemory(self.count, local_size)
        self.copies = AsyncCopies(self.count, self.shared, shape.eager_copies)
        self.parameters = np.zeros(0, np.uint8)
        self.block_numbers = np.zeros(self.blocks, np.int64)
        self.special = self._numbers_of_threads()

    def _place_variables(self, dynamic_shared: int):
        """Gives every shared and local variable of the entry its offset; dynamic shared memory comes last."""
        ends = {"shared": 0, "local": 0}
        static = [v for v in self.symbols.values() if not isinstance(v, (int, str))]
        for variable in static + self.entry.variables:
            at = -(-ends[variable.space] // variable.alignment) * variable.alignment
            self.symbols[variable.name] = at
            ends[variable.space] = at + variable.size
        for name, value in self.symbols.items():
            if value == "dynamic":
                self.symbols[name] = padded(ends["shared"])
        return padded(ends["shared"]) + dynamic_shared, ends["local"]

    def _numbers_of_threads(self) -> dict:
        thread = np.arange(self.count, dtype=np.uint32) % np.uint32(self.threads)
        lane = thread % np.uint32(32)
        fixed = {
            "%tid.x": thread,
            "%laneid": lane,
            "%warpid": thread // np.uint32(32),
            "%lanemask_eq": np.uint32(1) << lane,
            "%lanemask_lt": (np.uint32(1) << lane) - np.uint32(1),
        }
        for name, value in {"%tid.y": 0, "%tid.z": 0, "%ntid.x": self.threads, "%ntid.y": 1, "%ntid.z": 1}.items():
            fixed[name] = np.full(self.count, value, np.uint32)
        for axis, size in zip("xyz", self.grid):
            fixed[f"%nctaid.{axis}"] = np.full(self.count, size, np.uint32)
            fixed[f"%ctaid.{axis}"] = np.zeros(self.count, np.uint32)
        return fixed

    def begin(self, block_numbers: np.ndarray, parameters: bytes) -> None:
        """Makes everything as it is when blocks start; `block_numbers` are [block, 3]."""
        for axis, numbers in zip("xyz", block_numbers.T):
            self.special[f"%ctaid.{axis}"][:] = np.repeat(numbers, self.threads)
        x, y, z = block_numbers.T.astype(np.int64)
        self.block_numbers = (z * self.grid[1] + y) * self.grid[0] + x
        self.parameters = np.frombuffer(parameters, np.uint8)
        self.registers.forget()
        self.shared.forget()
        self.copies.forget()

    def tags(self, lanes: np.ndarray) -> np.ndarray:
        """Who these threads are to the check for races in global memory."""
        blocks = lanes // self.threads
        return tags(self.block_numbers[blocks], self.shared.barriers[blocks], lanes % self.threads)

    def reader(self, operand, kind: Type):
        """A function that gives an operand's values for the active threads; elements of others are arbitrary."""
        if isinstance(operand, tuple):
            inner = self.reader(operand[1], PREDICATE)
            return lambda active: ~inner(active)
        if isinstance(operand, Register):
            if operand.name in self.special:
                values = self.special[operand.name]
                wide = values if kind.width == 32 else None
                return (lambda active: wide) if wide is not None else lambda active: values.astype(kind.dtype)
            return self.registers.cell(operand.name).reader(kind)
        constant = self.constant(operand, kind)
        return lambda active: constant

    def constant(self, operand, kind: Type):
        if isinstance(operand, Symbol):
            if operand.name not in self.symbols:
                raise Fault(f"a name that no declaration has: {operand.name}")
            return kind.dtype.type(self.symbols[operand.name])
        if not isinstance(operand, Immediate):
            raise Fault(f"an operand that the interpreter does not know: {operand}")
        if operand.float_width and operand.float_width != kind.width:
            raise Fault(f"a constant of {operand.float_width} bits where {kind.width} are wanted")
        if kind.kind == "pred":
            return np.bool_(operand.bits != 0)
        return kind.bits.type(operand.bits & (2**kind.width - 1)).view(kind.dtype)

    def writer(self, operand, kind: Type):
        if isinstance(operand, Symbol) and operand.name == "_":
            return lambda active, values: None
        if not isinstance(operand, Register):
            raise Fault(f"a result cannot be stored in {operand}")
        return self.registers.cell(operand.name).writer(kind)

    def addresses(self, operand: Address):
        """A function that gives the addresses (u64) of the active threads, one for each of `active.lanes`."""
        base, offset = operand.base, np.uint64(operand.offset & (2**64 - 1))
        kind = U64
        if isinstance(base, Register) and base.name not in self.special:
            kind = Type("u", self.registers.cell(base.name).type.width)
        read = self.reader(base, kind)

        def at(active):
            values = np.asarray(read(active))
            values = values if values.ndim == 0 or active.whole else values[active.lanes]
            return np.broadcast_to(values.astype(np.uint64) + offset, (active.lanes.size,))

        return at

    def spread(self, active, values: np.ndarray) -> np.ndarray:
        """Values of the active threads as an array for all threads."""
        if active.whole:
            return values
        full = np.zeros(self.count, values.dtype)
        full[active.lanes] = values
        return full
