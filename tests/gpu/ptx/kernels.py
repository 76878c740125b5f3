"""Runs every case by the emulator and by the interpreter, and compares what they leave in memory."""

import dataclasses
import pathlib
import time

from case import Case, compare, emulate, interpret
from interpreter import parse
from nvrtc import Nvrtc, options
from units import KERNELS, Unit


@dataclasses.dataclass
class Compiler:
    """PTX of units, each compiled and parsed once."""

    nvrtc: Nvrtc
    architecture: str
    folder: pathlib.Path = KERNELS
    # {(unit, architecture): PTX} of what is compiled already.
    compiled: dict = dataclasses.field(default_factory=dict)
    modules: dict = dataclasses.field(default_factory=dict)

    def module(self, case: Case):
        unit = Unit(case.file, case.definitions)
        if unit not in self.modules:
            self.modules[unit] = parse(self.compiled.get((unit, self.architecture)) or self._ptx(unit))
        return self.modules[unit]

    def _ptx(self, unit: Unit) -> str:
        source = unit.source(self.folder)
        return self.nvrtc.compile(source, options(self.architecture, unit.definitions)).ptx


@dataclasses.dataclass
class Totals:
    cases: int = 0
    values: int = 0
    steps: int = 0
    seconds_emulated: float = 0
    seconds_interpreted: float = 0


def check_case(emulator, compiler: Compiler, case: Case, totals: Totals, eager_copies: bool = False) -> None:
    """Raises what is wrong: a `Fault` of the interpreter, an `EmulatorError`, or a `Mismatch`."""
    begun = time.monotonic()
    emulator.settings(totals.cases + 1, not eager_copies)
    expected = emulate(emulator, case)
    emulated = time.monotonic()
    found, steps = interpret(emulator.layout, compiler.module(case), case, eager_copies)
    totals.seconds_emulated += emulated - begun
    totals.seconds_interpreted += time.monotonic() - emulated
    totals.values += compare(case, expected, found)
    totals.steps += steps
    totals.cases += 1
