"""Builds the kernels as a host's C++ compiler makes them (tests/gpu/emulator), and launches them."""

import ctypes
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from units import EMULATOR, KERNELS

FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared")


class EmulatorError(Exception):
    """The library cannot be built, or a kernel made a mistake in it."""


def installed_compiler() -> "list | None":
    """The host's C++ compiler, if it has one."""
    named = os.environ.get("CXX")
    if named:
        return named.split()
    return next(([name] for name in ("g++", "c++", "clang++") if shutil.which(name)), None)


# What `python3 -m` runs where the host has no compiler; `run` installs it then.
FROM_PIP = [sys.executable, "-m", "ziglang", "c++"]


def sources() -> list:
    """The library's own files; those of its tests begin with `check`."""
    return sorted(path for path in EMULATOR.glob("*.cpp") if not path.name.startswith("check"))


def build(folder: pathlib.Path) -> pathlib.Path:
    """The library, built in `folder` unless it is there from the same sources."""
    texts = sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh"), *EMULATOR.glob("*.[ch]pp")])
    command = [*(installed_compiler() or FROM_PIP), *FLAGS]
    digest = hashlib.sha256(" ".join(command).encode() + b"".join(text.read_bytes() for text in texts))
    library = folder / f"emulated-{digest.hexdigest()[:12]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        # Files are compiled one by one, as a build system would, so that a failure names its file.
        objects = []
        for source in sources():
            objects.append(str(pathlib.Path(staging) / f"{source.stem}.o"))
            flags = [flag for flag in command if flag != "-shared"]
            run([*flags, "-I", str(KERNELS), "-I", str(EMULATOR), "-c", str(source), "-o", objects[-1]])
        made = pathlib.Path(staging) / "emulated.so"
        run([*command, *objects, "-o", str(made)])
        os.replace(made, library)
    return library


def run(command: list) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EmulatorError(f"{' '.join(command)} ends with {done.returncode}:\n{done.stderr[-4000:]}")


class Emulator:
    def __init__(self, folder: pathlib.Path):
        self.library = ctypes.CDLL(str(build(folder)))
        self.library.emulated_layout.restype = ctypes.c_char_p
        self.library.emulated_error.restype = ctypes.c_char_p
        self.library.emulated_settings.argtypes = (ctypes.c_uint64, ctypes.c_int)
        # {struct: {"size": bytes, "fields": {name: offset}}}
        self.layout = json.loads(self.library.emulated_layout())

    def attention_shared_bytes(self, head: int) -> int:
        return self.library.emulated_attention_shared_bytes(ctypes.c_uint32(head))

    def settings(self, seed: int, eager_copies: bool) -> None:
        self.library.emulated_settings(seed, int(eager_copies))

    def launch(self, kernel: str, grid: tuple, threads: int, shared_bytes: int, arguments: bytes) -> None:
        # The struct has pointers, so it must be aligned as they are.
        words = (ctypes.c_uint64 * (-(-len(arguments) // 8)))()
        ctypes.memmove(words, arguments, len(arguments))
        numbers = [ctypes.c_uint32(number) for number in (*grid, threads, shared_bytes)]
        if self.library.emulated_launch(kernel.encode(), *numbers, words) != 0:
            raise EmulatorError(f"{kernel}: {self.library.emulated_error().decode()}")
