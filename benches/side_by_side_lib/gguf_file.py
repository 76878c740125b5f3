"""GGUF files: what the comparison has to know of a model, and writing the variants of one.

The container: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

import dataclasses
import math
import os
import pathlib
import struct
from typing import BinaryIO, Callable, Iterable

from .machine import CannotRun

# GGUF's scalar types by number.
SCALARS = dict(enumerate("<B <b <H <h <I <i <f <?".split())) | {10: "<Q", 11: "<q", 12: "<d"}
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
ALIGNMENT = 32
COPY_BYTES = 1 << 24

# What the prompt of a Llama Guard 3 is made of besides text.
LLAMA_3_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor: its shape has the contiguous dimension first; `size` in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    size: int
    # Writes `size` bytes.
    write: Callable[[BinaryIO], None]

    @property
    def is_matrix(self) -> bool:
        """Whether tokens are multiplied with it."""
        return len(self.shape) == 2


class GgufFile:
    """Metadata as (type, bytes) by key, and tensors in the file's order."""

    def __init__(self, entries: dict[str, tuple[int, bytes]], tensors: list[Tensor]):
        self.entries = entries
        self.tensors = tensors

    @classmethod
    def open(cls, path: pathlib.Path) -> "GgufFile":
        """Reads all but the tensors' bytes."""
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise CannotRun(f"{path} is not a GGUF file: llama.cpp reads no other")
            _version, tensor_count, entry_count = struct.unpack("<IQQ", file.read(20))
            entries = {}
            for _ in range(entry_count):
                key = read_string(file).decode()
                (kind,) = struct.unpack("<I", file.read(4))
                begin = file.tell()
                skip(file, kind)
                end = file.tell()
                file.seek(begin)
                entries[key] = (kind, file.read(end - begin))
            heads = []
            for _ in range(tensor_count):
                name = read_string(file).decode()
                (dimensions,) = struct.unpack("<I", file.read(4))
                shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
                heads.append((name, shape, *struct.unpack("<IQ", file.read(12))))
            data = math.ceil(file.tell() / ALIGNMENT) * ALIGNMENT
            ends = sorted(offset for *_, offset in heads) + [os.path.getsize(path) - data]
        tensors = []
        for name, shape, kind, offset in heads:
            size = ends[ends.index(offset) + 1] - offset
            tensors.append(Tensor(name, shape, kind, size, copier(path, data + offset, size)))
        file = cls(entries, tensors)
        if file.get("general.alignment", ALIGNMENT) != ALIGNMENT:
            raise CannotRun(f"{path}: an alignment other than {ALIGNMENT} is not supported")
        return file

    def write(self, path: pathlib.Path) -> None:
        """Writes a file under its final name only when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".partial-{os.getpid()}")
        with partial.open("wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.entries)))
            for key, (kind, content) in self.entries.items():
                file.write(pack_string(key.encode()) + struct.pack("<I", kind) + content)
            offset = 0
            for tensor in self.tensors:
                file.write(pack_string(tensor.name.encode()))
                file.write(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
                file.write(struct.pack("<IQ", tensor.kind, offset))
                offset += padded(tensor.size)
            for tensor in self.tensors:
                file.write(bytes(padded(file.tell()) - file.tell()))
                tensor.write(file)
            file.write(bytes(padded(file.tell()) - file.tell()))
        partial.rename(path)

    def get(self, key: str, default=None):
        """A scalar, a string, or a list of scalars or strings."""
        if key not in self.entries:
            return default
        kind, content = self.entries[key]
        if kind == STRING:
            return content[8:].decode(errors="replace")
        if kind != ARRAY:
            return struct.unpack(SCALARS[kind], content)[0]
        element, count = struct.unpack_from("<IQ", content)
        if element != STRING:
            layout = SCALARS[element]
            return list(struct.unpack_from(f"<{count}{layout[1]}", content, 12))
        strings, at = [], 12
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", content, at)
            strings.append(content[at + 8 : at + 8 + length].decode(errors="surrogateescape"))
            at += 8 + length
        return strings

    def set_string(self, key: str, text: str) -> None:
        """Sets one string."""
        self.entries[key] = (STRING, pack_string(text.encode()))

    def set_strings(self, key: str, values: Iterable[str]) -> None:
        """Replaces a list of strings."""
        packed = [pack_string(value.encode(errors="surrogateescape")) for value in values]
        self.entries[key] = (ARRAY, struct.pack("<IQ", STRING, len(packed)) + b"".join(packed))

    def set_int32s(self, key: str, values: list[int]) -> None:
        """Replaces a list of numbers."""
        self.entries[key] = (ARRAY, struct.pack(f"<IQ{len(values)}i", INT32, len(values), *values))

    def set_uint32(self, key: str, number: int) -> None:
        """Sets one number."""
        self.entries[key] = (UINT32, struct.pack("<I", number))

    def set_float32(self, key: str, number: float) -> None:
        """Sets one number that need not be whole."""
        self.entries[key] = (FLOAT32, struct.pack("<f", number))

    def hyperparameter(self, name: str) -> int:
        """One of the architecture's own numbers."""
        key = f"{self.get('general.architecture')}.{name}"
        number = self.get(key)
        if number is None:
            raise CannotRun(f"the model does not say {key}")
        return number

    def kv_values_per_token(self) -> int:
        """Numbers that one token adds to the keys and values of all layers."""
        heads = self.hyperparameter("attention.head_count")
        head_width = self.hyperparameter("embedding_length") // heads
        return self.hyperparameter("block_count") * 2 * self.hyperparameter("attention.head_count_kv") * head_width


def copier(path: pathlib.Path, begin: int, size: int) -> Callable[[BinaryIO], None]:
    """Copies a stretch of another file."""

    def write(out: BinaryIO) -> None:
        with path.open("rb") as file:
            file.seek(begin)
            left = size
            while left:
                part = file.read(min(left, COPY_BYTES))
                if not part:
                    raise CannotRun(f"{path} ends within a tensor")
                out.write(part)
                left -= len(part)

    return write


def padded(size: int) -> int:
    """Where the next tensor may begin."""
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


def pack_string(content: bytes) -> bytes:
    """A length and as many bytes."""
    return struct.pack("<Q", len(content)) + content


def read_string(file: BinaryIO) -> bytes:
    """The reverse."""
    return file.read(struct.unpack("<Q", file.read(8))[0])


def skip(file: BinaryIO, kind: int) -> None:
    """Reads over a value of any type."""
    if kind == STRING:
        read_string(file)
    elif kind == ARRAY:
        element, count = struct.unpack("<IQ", file.read(12))
        if element in SCALARS:
            file.seek(count * struct.calcsize(SCALARS[element]), os.SEEK_CUR)
        else:
            for _ in range(count):
                skip(file, element)
    else:
        file.seek(struct.calcsize(SCALARS[kind]), os.SEEK_CUR)
