"""A launch of one kernel with its inputs, run by the emulator and by the interpreter, and how results are compared."""

import dataclasses

import numpy as np

from interpreter import Exact, GlobalMemory, Launch, run
from interpreter.floats import from_bf16

# How far apart results may be, in units in the last place. Without an entry they must have equal bits.
Tolerances = dict


@dataclasses.dataclass(frozen=True)
class Records:
    """An array of structs, some of whose fields may be arrays that they point to."""

    struct: str
    items: list


@dataclasses.dataclass(frozen=True)
class Nested:
    """A struct inside of a struct."""

    struct: str
    fields: dict


@dataclasses.dataclass
class Case:
    """`arguments` are the fields of the kernel's struct: arrays are pointers, None is a null pointer.

    `outputs` names those arrays that the kernel writes; all others are inputs, which it must leave alone.
    """

    kernel: str
    title: str
    file: str
    grid: tuple
    threads: int
    arguments: dict
    outputs: tuple
    head: int = 0
    shared_bytes: int = 0
    quick: bool = False
    ulps: Tolerances = dataclasses.field(default_factory=dict)
    then: "Case | None" = None  # A launch that goes on with this one's buffers.

    @property
    def definitions(self) -> tuple:
        return (f"HEAD={self.head}",) if self.head else ()

    @property
    def struct(self) -> str:
        if self.file == "attention.cu":
            return "AttentionArgs"
        words = [word for word in self.kernel.split("_") if not word.isdigit()]
        return "".join(word.capitalize() for word in words) + "Args"


class Mismatch(Exception):
    """Both ran, and their results differ."""


class Packing:
    """Puts arguments into one world's memory, and packs structs by the layout of the C++ compiler."""

    def __init__(self, layout: dict, place):
        self.layout = layout
        self.place = place  # (name, array, writable) -> address
        self.addresses = {}

    def pointer(self, name: str, value, writable: bool) -> int:
        if value is None:
            return 0
        if isinstance(value, Records):
            size = self.layout[value.struct]["size"]
            packed = b"".join(
                self.struct(value.struct, item, (), f"{name}.{number}.") for number, item in enumerate(value.items)
            )
            return self.place(name, np.frombuffer(packed, np.uint8).reshape(-1, size), False)
        return self.place(name, value, writable)

    def struct(self, struct: str, values: dict, outputs: tuple, prefix: str = "") -> bytes:
        fields = self.layout[struct]["fields"]
        if set(fields) != set(values):
            raise Mismatch(f"{struct} has the fields {sorted(fields)}, and the case gives {sorted(values)}")
        packed = bytearray(self.layout[struct]["size"])
        for name, value in values.items():
            if isinstance(value, (int, np.integer)):
                # Integers are of 32 bits, but those that say they are of 64.
                bits = int(value).to_bytes(8 if isinstance(value, np.uint64) else 4, "little")
            elif isinstance(value, float):
                bits = np.float32(value).tobytes()
            elif isinstance(value, Nested):
                bits = self.struct(value.struct, value.fields, outputs, f"{prefix}{name}.")
            else:
                key = prefix + name
                if key not in self.addresses:
                    self.addresses[key] = self.pointer(key, value, name in outputs)
                bits = self.addresses[key].to_bytes(8, "little")
            packed[fields[name] : fields[name] + len(bits)] = bits
        return bytes(packed)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 256 bytes, as memory of a card does."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    room = np.zeros(raw.size + 256, np.uint8)
    begin = -room.ctypes.data % 256
    room[begin : begin + raw.size] = raw
    return room[begin : begin + raw.size]


def emulate(emulator, case: Case) -> dict:
    kept = {}

    def place(name, array, _writable):
        kept[name] = aligned_copy(array)
        return kept[name].ctypes.data

    packing = Packing(emulator.layout, place)
    results = {}
    while case:
        arguments = packing.struct(case.struct, case.arguments, case.outputs)
        emulator.launch(case.kernel, case.grid, case.threads, case.shared_bytes, arguments)
        for name in case.outputs:
            if case.arguments[name] is not None:
                results[name] = kept[name].view(case.arguments[name].dtype)
        case = case.then
    return results


def interpret(layout: dict, module, case: Case, eager_copies: bool = False, rounding: type = Exact):
    """Gives the outputs, and the number of instructions that were stepped."""
    memory = GlobalMemory()
    # What a later launch of the chain writes is writable for all of them.
    writable, link = set(), case
    while link:
        writable |= set(link.outputs)
        link = link.then
    packing = Packing(layout, lambda name, array, _: memory.add(name, array, name in writable))
    steps, results = 0, {}
    while case:
        arguments = packing.struct(case.struct, case.arguments, case.outputs)
        launch = Launch(case.grid, case.threads, case.shared_bytes, arguments, eager_copies, rounding)
        steps += run(module, case.kernel, memory, launch)
        for name in case.outputs:
            if case.arguments[name] is not None:
                results[name] = memory.contents(packing.addresses[name], case.arguments[name].dtype)
        case = case.then
    return results, steps


def ordered(values: np.ndarray) -> np.ndarray:
    """Floats as integers that count units in the last place."""
    width = values.dtype.itemsize * 8
    bits = values.view(f"int{width}")
    return np.where(bits < 0, np.iinfo(bits.dtype).min - bits, bits)


def is_nan(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint16:  # bf16
        return np.isnan(from_bf16(values))
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)


def compare(case: Case, expected: dict, found: dict) -> int:
    """Gives the number of values compared. Two NaN are equal whatever their bits are."""
    count = 0
    for name, want in expected.items():
        got = found[name]
        fields = want.dtype.names
        parts = {f"{name}.{f}": (want[f], got[f]) for f in fields} if fields else {name: (want, got)}
        for part, (a, b) in parts.items():
            a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
            bits = f"uint{a.dtype.itemsize * 8}"
            differ = (a.view(bits) != b.view(bits)) & ~(is_nan(a) & is_nan(b))
            allowed = case.ulps.get(part, 0)
            if allowed:
                distance = np.abs(ordered(a).astype(np.float64) - ordered(b).astype(np.float64))
                differ &= (distance > allowed) | is_nan(a) | is_nan(b)
            if differ.any():
                at = int(np.flatnonzero(differ)[0])
                raise Mismatch(
                    f"{int(differ.sum())} of {a.size} values of {part} differ; the first is number {at}: "
                    f"{show(b[at])} by PTX, {show(a[at])} by C++"
                )
            count += a.size
    return count


def show(value) -> str:
    if value.dtype == np.uint16:
        return f"{float(from_bf16(np.array([value]))[0])!r} ({int(value):#06x})"
    return repr(value.item())
