"""Compiles every kernel for every architecture, and holds what ptxas says of registers and memory to bounds.txt."""

import concurrent.futures
import dataclasses
import os
import pathlib
import re

from nvrtc import Nvrtc, options
from units import KERNELS, units

BOUNDS = pathlib.Path(__file__).with_name("bounds.txt")
# Registers of 32 bits that a multiprocessor has, of all architectures that we compile for.
REGISTERS = 65536
# Registers are given to a warp in groups: 8 for each of its threads.
GRANULE = 8


@dataclasses.dataclass(frozen=True)
class Bound:
    threads: int
    blocks: int
    registers: int
    shared: int
    local: int


@dataclasses.dataclass(frozen=True)
class Use:
    """What one kernel needs on one architecture; bytes, but for registers."""

    registers: int
    shared: int
    local: int
    spilled: int


def read_bounds() -> dict:
    bounds = {}
    for line in BOUNDS.read_text().splitlines():
        fields = line.split("#")[0].split()
        if fields:
            bounds[fields[0]] = Bound(*map(int, fields[1:]))
    return bounds


REPORT = re.compile(
    r"entry function '(?P<name>\w+)'.*?(?P<local>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)


def uses(log: str) -> dict:
    found = {}
    for report in REPORT.finditer(log):
        shared = re.search(r"(\d+) bytes smem", report["rest"])
        found[report["name"]] = Use(
            registers=int(report["registers"]),
            shared=int(shared[1]) if shared else 0,
            local=int(report["local"]),
            spilled=int(report["stores"]) + int(report["loads"]),
        )
    return found


def mistakes(name: str, architecture: str, use: Use, bounds: dict) -> list:
    bound = bounds.get(name)
    where = f"{name} for sm_{architecture}"
    if bound is None:
        return [f"{where} has no line in {BOUNDS.name}"]
    found = []
    if use.registers > bound.registers:
        found.append(f"{where} needs {use.registers} registers, the bound is {bound.registers}")
    if use.shared > bound.shared:
        found.append(f"{where} needs {use.shared} bytes of shared memory, the bound is {bound.shared}")
    if use.local > bound.local or use.spilled:
        found.append(f"{where} needs {use.local} bytes of local memory and spills {use.spilled} bytes")
    allotted = -(-use.registers // GRANULE) * GRANULE
    if allotted * bound.threads * bound.blocks > REGISTERS:
        found.append(
            f"{where}: {bound.blocks} blocks of {bound.threads} threads with {use.registers} registers do not fit"
        )
    return found


def compile_all(packages: pathlib.Path, architectures: tuple, folder: pathlib.Path = KERNELS) -> dict:
    """Gives {(unit, architecture): Compiled}. ctypes releases Python's lock, so two threads use two processors."""
    compiler = Nvrtc(packages)
    work = [(unit, architecture) for unit in units(folder) for architecture in architectures]
    with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        results = pool.map(
            lambda job: compiler.compile(job[0].source(folder), options(job[1], job[0].definitions)), work
        )
        return dict(zip(work, results, strict=True))


def table(rows: dict, architectures: tuple, bounds: dict) -> str:
    """A line for each kernel: registers on each architecture, then the most shared, local and spilled bytes."""
    heads = [f"sm_{architecture}" for architecture in architectures]
    lines = [f"{'registers of a thread':<24}" + "".join(f"{head:>8}" for head in heads)]
    lines[0] += f"{'bound':>8}{'shared':>9}{'local':>7}{'spills':>8}"
    for name, by_architecture in sorted(rows.items()):
        found = by_architecture.values()
        line = f"{name:<24}" + "".join(f"{by_architecture[a].registers:>8}" for a in architectures)
        line += f"{bounds[name].registers if name in bounds else '-':>8}{max(use.shared for use in found):>9}"
        line += f"{max(use.local for use in found):>7}{max(use.spilled for use in found):>8}"
        lines.append(line)
    return "\n".join(lines)


def check(compiled: dict) -> list:
    """Prints the table, and gives what is wrong as sentences."""
    bounds, rows, found = read_bounds(), {}, []
    for (_, architecture), result in compiled.items():
        if not result.cubin.startswith(b"\x7fELF"):
            found.append(f"NVRTC gives no machine code for sm_{architecture}")
        reported = uses(result.log)
        for name, use in reported.items():
            rows.setdefault(name, {})[architecture] = use
            found += mistakes(name, architecture, use, bounds)
        missing = set(re.findall(r"\.entry (\w+)", result.ptx)) - set(reported)
        found += [f"ptxas says nothing of {name} for sm_{architecture}" for name in sorted(missing)]
    found += [f"{BOUNDS.name} names {name}, which no file has" for name in sorted(set(bounds) - set(rows))]
    architectures = tuple(dict.fromkeys(architecture for _, architecture in compiled))
    print(table(rows, architectures, bounds))
    return found
