"""Runs a whole grid, some blocks at a time."""

import dataclasses

import numpy as np

from .context import Context
from .fault import Fault
from .memory import GlobalMemory
from .parse import Module
from .rounding import Exact
from .schedule import Schedule, Step

# Threads that run together: enough to hide Python's cost of a step, few enough for the processor's caches.
LANES = 4096
SHARED_BYTES_TOGETHER = 32 << 20


@dataclasses.dataclass(frozen=True)
class Launch:
    grid: tuple
    threads: int
    shared_bytes: int
    parameters: bytes
    eager_copies: bool = False
    # How a card rounds where it may choose: `rounding.Exact` or `rounding.LikeACard`.
    rounding: type = Exact


@dataclasses.dataclass(frozen=True)
class Shape:
    blocks: int
    threads: int
    grid: tuple
    shared_bytes: int
    eager_copies: bool
    rounding: type


def run(module: Module, name: str, memory: GlobalMemory, launch: Launch) -> int:
    """Runs an entry over a grid; gives the number of instructions stepped. Raises `Fault`."""
    entry = module.entries.get(name)
    if entry is None:
        raise Fault(f"the module has no kernel {name}")
    size = sum(parameter.size for parameter in entry.parameters)
    if len(entry.parameters) != 1 or size != len(launch.parameters):
        raise Fault(f"{name} takes {size} bytes of parameters, and {len(launch.parameters)} are given")
    if launch.threads % 32 or (entry.threads and launch.threads != entry.threads):
        raise Fault(f"{name} is compiled for {entry.threads} threads and launched with {launch.threads}")
    x, y, z = launch.grid
    numbers = np.stack(np.meshgrid(np.arange(z), np.arange(y), np.arange(x), indexing="ij"), axis=-1)
    numbers = numbers.reshape(-1, 3)[:, ::-1].astype(np.uint32)
    together = max(1, min(len(numbers), LANES // launch.threads, SHARED_BYTES_TOGETHER // max(launch.shared_bytes, 1)))
    shape = Shape(together, launch.threads, launch.grid, launch.shared_bytes, launch.eager_copies, launch.rounding)
    context = Context(entry, memory, module_symbols(module, memory, entry), shape)
    steps = []
    for instruction in entry.instructions:
        try:
            steps.append(Step(context, instruction))
        except Fault as fault:
            raise Fault(f"{name}: {fault} [{instruction.where()}]") from None
    memory.begin_launch()
    count = 0
    for begin in range(0, len(numbers), together):
        some = numbers[begin : begin + together]
        present = np.repeat(np.arange(together) < len(some), launch.threads)
        filled = np.concatenate([some, np.zeros((together - len(some), 3), np.uint32)])
        context.begin(filled, launch.parameters)
        try:
            count += Schedule(context, steps, present).run()
        except Fault as fault:
            raise Fault(f"{name}: {fault}") from None
    return count


def module_symbols(module: Module, memory: GlobalMemory, entry) -> dict:
    """Addresses of what the module declares outside of entries, and of the parameters."""
    symbols = {}
    for variable in module.variables:
        if variable.space == "shared":
            symbols[variable.name] = variable if variable.size else "dynamic"
        else:
            contents = np.frombuffer(variable.data.ljust(variable.size, b"\0"), np.uint8)
            symbols[variable.name] = memory.add(variable.name, contents, variable.space == "global")
    symbols[entry.parameters[0].name] = 0
    return symbols
