"""Reads from a GGUF file how much a token's keys and values take, so that both sides get the same KV memory."""

import pathlib
import struct
from typing import BinaryIO

from .machine import CannotRun

# GGUF's scalar types by number: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
SCALARS = dict(enumerate("<B <b <H <h <I <i <f <?".split())) | {10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


def metadata(path: pathlib.Path, wanted) -> dict:
    """Scalar and string entries, up to the point where `wanted(found)` says that it is enough."""
    found: dict = {}
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise CannotRun(f"{path} is not a GGUF file: llama.cpp reads no other")
        _version, _tensors, entries = struct.unpack("<IQQ", file.read(20))
        for _ in range(entries):
            key = string(file).decode()
            found[key] = value(file, scalar(file, "<I"))
            if wanted(found):
                break
    return found


def scalar(file: BinaryIO, layout: str):
    """One number."""
    return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def string(file: BinaryIO) -> bytes:
    """A length and as many bytes."""
    return file.read(scalar(file, "<Q"))


def value(file: BinaryIO, kind: int):
    """Any value; arrays are read over and come back as None."""
    if kind == STRING:
        return string(file).decode(errors="replace")
    if kind != ARRAY:
        return scalar(file, SCALARS[kind])
    element, count = struct.unpack("<IQ", file.read(12))
    for _ in range(count):
        value(file, element)
    return None


def kv_values_per_token(path: pathlib.Path) -> int:
    """Numbers that one token adds to the keys and values of all layers."""
    names = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")

    def enough(found: dict) -> bool:
        family = found.get("general.architecture")
        return all(f"{family}.{name}" in found for name in names)

    found = metadata(path, enough)
    if not enough(found):
        raise CannotRun(f"{path} does not say its {', '.join(names)}")
    family = found["general.architecture"]
    layers, width, heads, kv_heads = (found[f"{family}.{name}"] for name in names)
    return layers * 2 * kv_heads * (width // heads)
