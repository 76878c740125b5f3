"""The models that are compared: files, and variants that are made from the demo's model into a cache folder."""

import hashlib
import os
import pathlib
from typing import Callable

from . import dummies
from .dummies import TOKENS, constant
from .gguf_file import LLAMA_3_HEADERS, GgufFile
from .machine import CannotRun, Setup, default_model, progress, run

# Changes whenever a variant is made differently.
REVISION = 2

TOKEN_TYPES, CONTROL = "tokenizer.ggml.token_type", 3


def find(setup: Setup, name: str) -> pathlib.Path:
    """The file of a `--model` argument: made first where it is a variant."""
    if name in VARIANTS:
        return VARIANTS[name](setup)
    path = pathlib.Path(name)
    if not path.is_file():
        raise CannotRun(f"--model {name}: neither a file nor one of {', '.join(VARIANTS)}")
    return path.absolute()


def cached(source: pathlib.Path, ending: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """A file made from another one, and made again when that one changes."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    state = source.stat()
    identity = f"{REVISION} {source.absolute()} {state.st_size} {state.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    path = pathlib.Path(home, "babelward", "side_by_side", f"{source.stem}.{digest}.{ending}.gguf")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        progress(f"making {path}")
        make(path)
    return path


def converted(setup: Setup, file_type: str) -> pathlib.Path:
    """The demo's model in a file type of llama.cpp's, by its own program."""
    ending = file_type.lower()
    program = setup.peer / "llama-quantize"
    if not os.access(program, os.X_OK):
        raise CannotRun(f"demo-{ending} needs llama-quantize in LLAMA_CPP_BIN={setup.peer}")
    source = default_model(setup.ours)

    def make(path: pathlib.Path) -> None:
        partial = path.with_suffix(".partial")
        run([program, "--allow-requantize", source, partial, file_type])
        partial.rename(path)

    return cached(source, ending, make)


def dummy(setup: Setup, ending: str, shape: dummies.Shape, mix: dummies.Mix) -> pathlib.Path:
    """Random weights, with the demo's vocabulary, and guard-shaped."""
    source = default_model(setup.ours)
    return cached(source, ending, lambda path: as_guard(dummies.fill(GgufFile.open(source), shape, mix)).write(path))


def guard_shaped(model: pathlib.Path) -> pathlib.Path:
    """A copy that both sides serve with Llama Guard 3's own prompt; the file itself where it has that prompt's
    tokens already."""
    file = GgufFile.open(model)
    if set(LLAMA_3_HEADERS) <= set(file.get(TOKENS)):
        return model
    return cached(model, "guard-shape", lambda path: as_guard(file).write(path))


def as_guard(file: GgufFile) -> GgufFile:
    """Gives unused special tokens the names of Llama 3's headers, splits text as Llama 3 does, and makes `safe` every
    verdict, as it is most of a real guard's: with an output norm of zeros all logits are equal, and `safe` moves to
    id 0, which wins ties. Every matrix keeps its size and its place in the computation."""
    tokens, types = file.get(TOKENS), file.get(TOKEN_TYPES)
    template = file.get("tokenizer.chat_template", "")
    named = {file.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos", "unknown", "padding")}
    free = [i for i, kind in enumerate(types) if kind == CONTROL and i not in named and tokens[i] not in template]
    if len(free) < len(LLAMA_3_HEADERS) or "safe" not in tokens:
        raise CannotRun("the model's vocabulary cannot take Llama Guard 3's prompt: give --figures without it")
    for token, name in zip(free, LLAMA_3_HEADERS):
        tokens[token] = name
    safe = tokens.index("safe")
    for column in (tokens, types):
        column[0], column[safe] = column[safe], column[0]
    swapped = {0: safe, safe: 0}
    for role in ("bos", "eos", "unknown", "padding"):
        key = f"tokenizer.ggml.{role}_token_id"
        if file.get(key) in swapped:
            file.set_uint32(key, swapped[file.get(key)])
    file.set_string("tokenizer.ggml.pre", "llama-bpe")
    file.set_strings(TOKENS, tokens)
    file.set_int32s(TOKEN_TYPES, types)
    file.tensors = [
        constant(tensor.name, tensor.shape[0], 0.0) if tensor.name == "output_norm.weight" else tensor
        for tensor in file.tensors
    ]
    return file


VARIANTS: dict[str, Callable[[Setup], pathlib.Path]] = {
    "demo": lambda setup: default_model(setup.ours),
    "demo-q8_0": lambda setup: converted(setup, "Q8_0"),
    "demo-bf16": lambda setup: converted(setup, "BF16"),
    "dummy-1b": lambda setup: dummy(setup, "dummy-1b", dummies.LLAMA_1B, dummies.Q4_0_MIX),
    "dummy-1b-q8_0": lambda setup: dummy(setup, "dummy-1b-q8_0", dummies.LLAMA_1B, dummies.Q8_0_MIX),
    "dummy-1b-bf16": lambda setup: dummy(setup, "dummy-1b-bf16", dummies.LLAMA_1B, dummies.BF16_MIX),
    "dummy-8b": lambda setup: dummy(setup, "dummy-8b", dummies.LLAMA_8B_QUARTER, dummies.Q4_K_M_MIX),
}
