"""Types of PTX, and registers: arrays with one element for each thread."""

import dataclasses
import re

import numpy as np

from .fault import Fault

KINDS = {"u": "uint", "b": "uint", "s": "int", "f": "float", "bf": "uint"}


@dataclasses.dataclass(frozen=True)
class Type:
    """A scalar type such as `f32`: `kind` is u, s, b, f, bf or pred, `width` counts bits."""

    kind: str
    width: int

    @property
    def dtype(self):
        if self.kind == "pred":
            return np.dtype(bool)
        return np.dtype(f"{KINDS[self.kind]}{self.width}")

    @property
    def bits(self):
        """The same width as an unsigned integer."""
        return np.dtype(bool) if self.kind == "pred" else np.dtype(f"uint{self.width}")

    @property
    def is_float(self) -> bool:
        return self.kind in ("f", "bf")


def type_of(text: str) -> "Type | None":
    if text == "pred":
        return Type("pred", 1)
    parts = re.fullmatch(r"(u|s|b|f|bf)(8|16|32|64)", text)
    return Type(parts[1], int(parts[2])) if parts else None


class Active:
    """The threads that run an instruction together."""

    __slots__ = ("mask", "whole", "_lanes", "_whole_warps")

    def __init__(self, mask: np.ndarray):
        self.mask = mask
        self.whole = bool(mask.all())
        self._lanes = None
        self._whole_warps = self.whole or None

    @property
    def whole_warps(self) -> bool:
        """Whether of every warp all threads or none are active."""
        if self._whole_warps is None:
            warps = self.mask.reshape(-1, 32)
            self._whole_warps = bool((warps.any(axis=1) == warps.all(axis=1)).all())
        return self._whole_warps

    @property
    def lanes(self) -> np.ndarray:
        if self._lanes is None:
            self._lanes = np.flatnonzero(self.mask)
        return self._lanes


class RegisterFile:
    """The registers of an entry for `count` threads, made when they are first named."""

    def __init__(self, types: dict, count: int):
        self.types = types
        self.count = count
        self.cells = {}

    def cell(self, name: str) -> "Cell":
        cell = self.cells.get(name)
        if cell is None:
            kind = self.types.get(name)
            if kind is None:
                raise Fault(f"a register that no declaration has: {name}")
            cell = self.cells[name] = Cell(name, type_of(kind), self.count)
        return cell

    def forget(self) -> None:
        """Makes all registers uninitialised."""
        for cell in self.cells.values():
            cell.whole = False
            cell.last = None
            cell.written[:] = False


class Cell:
    """One register of all threads, and which threads have written it."""

    __slots__ = ("name", "type", "values", "written", "whole", "last")

    def __init__(self, name: str, kind: Type, count: int):
        self.name = name
        self.type = kind
        self.values = np.zeros(count, kind.bits)
        self.written = np.zeros(count, bool)
        self.whole = False  # All threads have written it.
        self.last = None  # Who wrote it last: a cheap answer to most questions.

    def check(self, active: Active) -> None:
        missing = active.mask & ~self.written
        if missing.any():
            raise Fault(f"register {self.name} is read before it is written, by thread {np.flatnonzero(missing)[0]}")

    def mark(self, active: Active) -> None:
        self.last = active
        if active.whole:
            self.whole = True
        elif not self.whole:
            self.written |= active.mask

    def reader(self, kind: Type):
        """A function that gives the values as `kind`, after a check that the asking threads have written them."""
        if (kind.kind == "pred") != (self.type.kind == "pred") or kind.width > self.type.width:
            raise Fault(f"register {self.name} of {self.type.width} bits is read as {kind.kind}{kind.width}")
        narrow = kind.width < self.type.width
        values = self.values if narrow or kind.kind == "pred" else self.values.view(kind.dtype)

        def read(active: Active) -> np.ndarray:
            if not self.whole and self.last is not active:
                self.check(active)
            return values.astype(kind.bits).view(kind.dtype) if narrow else values

        return read

    def writer(self, kind: Type):
        """A function that stores values of `kind`; a wider register is filled up by the sign of `kind`."""
        if (kind.kind == "pred") != (self.type.kind == "pred") or kind.width > self.type.width:
            raise Fault(f"register {self.name} of {self.type.width} bits is written as {kind.kind}{kind.width}")
        narrow = kind.width < self.type.width
        extended = (
            np.dtype(f"int{self.type.width}" if kind.kind == "s" else f"uint{self.type.width}") if narrow else None
        )
        target = self.values if narrow or kind.kind == "pred" else self.values.view(kind.dtype)

        def write(active: Active, values) -> None:
            if narrow:
                values = np.asarray(values, kind.dtype)
                values = (values if kind.kind == "s" else values.view(kind.bits)).astype(extended).view(self.type.bits)
            if active.whole:
                np.copyto(target, values)
                self.last = active
                self.whole = True
            else:
                np.copyto(target, values, where=active.mask)
                self.mark(active)

        return write
