"""What is compiled: each kernel file of the repository, with the definitions that babelward compiles it with."""

import dataclasses
import pathlib

from nvrtc import Source

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
KERNELS = REPOSITORY / "src" / "backend" / "cuda" / "kernels"
EMULATOR = REPOSITORY / "tests" / "gpu" / "emulator"
# Ampere's and Ada's, Hopper's, and Blackwell's of data centres and of desktops.
ARCHITECTURES = ("80", "89", "90a", "100", "120")
HEAD_SIZES = (16, 32, 64, 80, 96, 128, 256)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A file together with its definitions, as NVRTC gets it."""

    file: str
    definitions: tuple = ()

    def source(self, folder: pathlib.Path = KERNELS) -> Source:
        headers = {header.name: header.read_text() for header in sorted(folder.glob("*.cuh"))}
        return Source(self.file, (folder / self.file).read_text(), headers)


def units(folder: pathlib.Path = KERNELS) -> list:
    found = []
    for file in sorted(path.name for path in folder.glob("*.cu")):
        if file == "attention.cu":
            found += [Unit(file, (f"HEAD={head}",)) for head in HEAD_SIZES]
        else:
            found.append(Unit(file))
    return found
