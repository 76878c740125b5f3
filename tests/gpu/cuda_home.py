#!/usr/bin/env python3
"""Assembles a folder with the CUDA libraries that babelward needs, from pip packages; no toolkit, no root.

usage: cuda_home.py FOLDER [--all]

Afterwards `CUDA_HOME=FOLDER/nvidia/cu13 babelward ...` finds them there. The driver's library, libcuda.so.1, is in no
package: it comes with NVIDIA's driver (580 or newer), or from the host when a container is started with the NVIDIA
container toolkit. What the packages have and babelward does not need is removed, unless --all is given. Exit status 3
when pip cannot install.
"""

import argparse
import os
import pathlib
import subprocess
import sys

# cuBLASLt for products, NVRTC for kernels; of one release of CUDA.
PACKAGES = ("nvidia-cublas==13.0.2.14", "nvidia-cuda-nvrtc==13.0.88")
NEEDED = ("libcublasLt.so.", "libnvrtc.so.", "libnvrtc-builtins.so.")


def install(folder: pathlib.Path) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-compile", "--upgrade", "--target", str(folder), *PACKAGES]
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, check=False)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--all", action="store_true", help="keep libraries that babelward does not load")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if not install(folder):
        print(f"pip cannot install {' and '.join(PACKAGES)}: its own message is above", file=sys.stderr)
        return 3
    home = folder / "nvidia" / "cu13"
    for library in sorted((home / "lib").iterdir()):
        if not library.name.startswith(NEEDED) and not arguments.all:
            library.unlink()
        else:
            print(f"{library.stat().st_size / 1e6:8.1f} MB  {library}", file=sys.stderr)
    print(f"export CUDA_HOME={home}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
