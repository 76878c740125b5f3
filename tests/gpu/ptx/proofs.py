"""The steps of `run`. Each prints what it finds and gives what is wrong as sentences."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import pathlib
import unittest

import card_rounding
import mistakes
import resources
from case import Mismatch
from cases import all_cases
from emulator import Emulator, EmulatorError
from interpreter import Fault
from kernels import Compiler, Totals, check_case
from nvrtc import CompileError, Nvrtc
from units import ARCHITECTURES, Unit

# NVRTC has one compiler for architectures before Blackwell and another one since; a few kernels differ on Ada too.
INTERPRETED = ("80", "89", "120")
QUICK = ("120",)
# What processes that run cases inherit.
inherited = None


def run_inherited(group: tuple):
    return inherited.run_group(group)


@dataclasses.dataclass
class Proofs:
    packages: pathlib.Path
    scratch: pathlib.Path
    quick: bool
    jobs: int
    # {(unit, architecture): PTX} of what the first step has compiled.
    compiled: dict = dataclasses.field(default_factory=dict)

    def resources(self) -> list:
        try:
            results = resources.compile_all(self.packages, QUICK if self.quick else ARCHITECTURES)
        except CompileError as error:
            return [str(error)]
        self.compiled = {key: result.ptx for key, result in results.items()}
        return resources.check(results)

    def tools(self) -> list:
        suite = unittest.defaultTestLoader.loadTestsFromNames(["test_interpreter", "test_resources"])
        result = unittest.TextTestRunner(verbosity=0).run(suite)
        return [f"{test}: {text.splitlines()[-1]}" for test, text in result.failures + result.errors]

    @functools.cached_property
    def emulator(self) -> Emulator:
        return Emulator(self.scratch)

    @functools.cached_property
    def cases(self) -> list:
        return all_cases(self.emulator.attention_shared_bytes)

    def groups(self) -> list:
        """Work for processes: an architecture and a unit, whose PTX one process compiles and parses once.

        All cases run as compiled for the oldest architecture, and the quick ones for the others.
        """
        units = dict.fromkeys(Unit(case.file, case.definitions) for case in self.cases)
        groups = []
        for architecture in QUICK if self.quick else INTERPRETED:
            only_quick = self.quick or architecture != INTERPRETED[0]
            for unit in units:
                chosen = [
                    number
                    for number, case in enumerate(self.cases)
                    if Unit(case.file, case.definitions) == unit and (case.quick or not only_quick)
                ]
                if chosen:
                    groups.append((architecture, chosen))
        return groups

    def run_group(self, group: tuple):
        architecture, chosen = group
        compiler, totals, wrong = Compiler(Nvrtc(self.packages), architecture, compiled=self.compiled), Totals(), []
        for number in chosen:
            case = self.cases[number]
            # Every third case has copies that arrive at once, the others as late as they may.
            try:
                check_case(self.emulator, compiler, case, totals, eager_copies=number % 3 == 0)
            except (Fault, Mismatch, EmulatorError) as found:
                wrong.append(f"{case.kernel} ({case.title}) for sm_{architecture}: {found}")
        return wrong, totals

    def kernels(self) -> list:
        try:
            groups = self.groups()
        except EmulatorError as error:
            return [str(error)]
        wrong, sums = [], Totals()
        global inherited
        inherited = self
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(self.jobs, mp_context=context) as pool:
            for some, totals in pool.map(run_inherited, groups):
                wrong += some
                for field in dataclasses.fields(Totals):
                    setattr(sums, field.name, getattr(sums, field.name) + getattr(totals, field.name))
        kernels = {case.kernel for case in self.cases} | {case.then.kernel for case in self.cases if case.then}
        print(f"  {sums.cases} cases of {len(kernels)} kernels agree: {sums.values} values, {sums.steps} steps")
        print(f"  {sums.seconds_emulated:.1f} s emulated, {sums.seconds_interpreted:.1f} s interpreted")
        untested = set(resources.read_bounds()) - kernels
        return wrong + [f"no case runs {kernel}" for kernel in sorted(untested)]

    def rounding(self) -> list:
        compiler = Compiler(Nvrtc(self.packages), QUICK[0], compiled=self.compiled)
        try:
            return card_rounding.check(self.emulator, compiler, self.cases, self.quick)
        except EmulatorError as error:
            return [str(error)]

    def mistakes(self) -> list:
        try:
            return mistakes.check(self.emulator, Nvrtc(self.packages), self.cases, self.quick)
        except EmulatorError as error:
            return [str(error)]
