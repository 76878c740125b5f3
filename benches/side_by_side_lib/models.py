"""The models that are compared: files, and variants that are made from the demo's model into a cache folder."""

import hashlib
import os
import pathlib
import random
import struct
from typing import BinaryIO, Callable

from .gguf_file import GgufFile, Tensor
from .machine import CannotRun, Setup, default_model, progress, run

# Changes whenever a variant is made differently.
REVISION = 1

LLAMA_3_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TOKENS, TOKEN_TYPES, CONTROL = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", 3
F32, Q4_0, Q8_0 = 0, 2, 8

# Llama 3.2 1B but for its vocabulary.
SHAPE_1B = {
    "block_count": 16,
    "context_length": 8192,
    "embedding_length": 2048,
    "feed_forward_length": 8192,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
    "rope.dimension_count": 64,
}


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


def quantised(setup: Setup) -> pathlib.Path:
    """The demo's model in Q8_0, by llama.cpp's own program."""
    program = setup.peer / "llama-quantize"
    if not os.access(program, os.X_OK):
        raise CannotRun(f"demo-q8_0 needs llama-quantize in LLAMA_CPP_BIN={setup.peer}")
    source = default_model(setup.ours)

    def make(path: pathlib.Path) -> None:
        partial = path.with_suffix(".partial")
        run([program, "--allow-requantize", source, partial, "Q8_0"])
        partial.rename(path)

    return cached(source, "q8_0", make)


def dummy_1b(setup: Setup) -> pathlib.Path:
    """Random weights in Llama 3.2 1B's shape, Q4_0, with the demo's vocabulary, and guard-shaped."""
    source = default_model(setup.ours)

    def make(path: pathlib.Path) -> None:
        file = GgufFile.open(source)
        for name, number in SHAPE_1B.items():
            file.set_uint32(f"llama.{name}", number)
        width, inner = SHAPE_1B["embedding_length"], SHAPE_1B["feed_forward_length"]
        kv_width = width // SHAPE_1B["attention.head_count"] * SHAPE_1B["attention.head_count_kv"]
        matrices = {
            "attn_q": (width, width),
            "attn_k": (width, kv_width),
            "attn_v": (width, kv_width),
            "attn_output": (width, width),
            "ffn_gate": (width, inner),
            "ffn_up": (width, inner),
            "ffn_down": (inner, width),
        }
        file.tensors = [random_matrix("token_embd.weight", (width, len(file.get(TOKENS))), Q8_0)]
        for layer in range(SHAPE_1B["block_count"]):
            for norm in ("attn_norm", "ffn_norm"):
                file.tensors.append(constant(f"blk.{layer}.{norm}.weight", width, 1.0))
            for name, shape in matrices.items():
                file.tensors.append(random_matrix(f"blk.{layer}.{name}.weight", shape, Q4_0))
        file.tensors.append(constant("output_norm.weight", width, 1.0))
        as_guard(file).write(path)

    return cached(source, "dummy-1b", make)


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


def constant(name: str, width: int, number: float) -> Tensor:
    """A vector of one number in f32."""
    content = struct.pack("<f", number) * width
    return Tensor(name, (width,), F32, len(content), lambda out: out.write(content))


def random_matrix(name: str, shape: tuple[int, int], kind: int) -> Tensor:
    """Quantised weights with a standard deviation of about 0.02, the same ones for the same name."""
    # A block of 32 weights is an f16 scale and the weights; both kinds' weights are uniform over their range.
    block, scale = {Q4_0: (18, 0.004), Q8_0: (34, 0.00027)}[kind]
    blocks = shape[0] * shape[1] // 32
    scale = struct.pack("<e", scale)

    def write(out: BinaryIO) -> None:
        content = bytearray(random.Random(name).randbytes(blocks * block))
        for index in range(2):
            content[index::block] = scale[index : index + 1] * blocks
        out.write(content)

    return Tensor(name, shape, kind, blocks * block, write)


VARIANTS = {"demo": lambda setup: default_model(setup.ours), "demo-q8_0": quantised, "dummy-1b": dummy_1b}
