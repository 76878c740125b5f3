"""Runs kernels from their PTX (NVIDIA's virtual assembly) on the CPU, to check what a compiler made of them.

`parse` reads PTX text, `registers` and `memory` hold the state of the threads, `arithmetic`, `moves` and `warp` give
each instruction its meaning, and `schedule` runs blocks of threads. Registers are numpy arrays with one element for
each thread of several blocks, so one step of the interpreter runs one instruction for thousands of threads.

It stops with a `Fault` at what a card would do silently: a register read before it is written, an access outside of a
buffer or misaligned, two threads of a block that use the same shared memory without a barrier between them, a barrier
or a warp instruction that not all of its threads reach. An instruction that it does not know is a `Fault` as well.

What it cannot show: speed, the card's memory model beyond barriers, and the rounding inside of approximate
instructions and tensor cores, for which `rounding` has two models.
"""

from .fault import Fault
from .launch import Launch, run
from .memory import Buffer, GlobalMemory
from .parse import Entry, Module, parse
from .rounding import Exact, LikeACard

__all__ = ["Buffer", "Entry", "Exact", "Fault", "GlobalMemory", "Launch", "LikeACard", "Module", "parse", "run"]
