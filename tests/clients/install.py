#!/usr/bin/env python3
"""Installs pinned Python packages into a folder of their own and prints that folder.

usage: install.py PARENT [REQUIREMENTS [--no-deps]]      REQUIREMENTS defaults to the file beside this script;
                                                         with --no-deps it lists every package that is needed

Uses `pip install --target`, so it needs neither a virtual environment nor root, and nothing outside PARENT
changes. The folder's name is a digest of the requirements and of the interpreter: a second call with the same
ones only prints it. Exit status 3 when pip cannot install.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile


def main() -> int:
    if not 2 <= len(sys.argv) <= 4 or sys.argv[3:] not in ([], ["--no-deps"]):
        print(__doc__, file=sys.stderr)
        return 2
    parent = pathlib.Path(sys.argv[1]).absolute()
    beside = pathlib.Path(__file__).resolve().parent / "requirements.txt"
    requirements = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else beside

    identity = requirements.read_bytes() + sys.version.encode() + sys.executable.encode()
    folder = parent / ("python-" + hashlib.sha256(identity).hexdigest()[:12])
    if folder.is_dir():
        print(folder)
        return 0

    parent.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix="python-install-", dir=parent))
    try:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-input", "--target", str(staging), "--requirement", str(requirements)]
        command += sys.argv[3:]
        environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, check=False)
        if done.returncode != 0:
            print(
                f"cannot install {requirements.name} with `{sys.executable} -m pip`: pip's own message is above. "
                "Check that pip is installed (Debian: apt-get install python3-pip) and reaches a package index "
                "(PIP_INDEX_URL names another one).",
                file=sys.stderr,
            )
            return 3
        try:
            os.rename(staging, folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was faster with the same packages
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
