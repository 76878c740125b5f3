"""Models of random weights in the shape of real ones, with the vocabulary of another file. Their speed and their memory are
those of a trained model: no kernel on either side looks at what a weight is."""

import dataclasses
import random
import struct
from typing import BinaryIO, Callable

from .gguf_file import GgufFile, Tensor

# GGUF's numbers of the formats.
F32, Q4_0, Q8_0, Q4_K, Q6_K, BF16 = 0, 2, 8, 12, 14, 30
TOKENS = "tokenizer.ggml.tokens"


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a Llama decoder but for its vocabulary."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    # Whether the output has no matrix of its own and multiplies with the embedding's.
    tied: bool
    context: int = 8192
    rope_base: float = 500_000.0

    @property
    def head_width(self) -> int:
        """Numbers of a head."""
        return self.width // self.heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each matrix of a layer."""
        kv_width = self.head_width * self.kv_heads
        return {
            "attn_q": (self.width, self.width),
            "attn_k": (self.width, kv_width),
            "attn_v": (self.width, kv_width),
            "attn_output": (self.width, self.width),
            "ffn_gate": (self.width, self.inner),
            "ffn_up": (self.width, self.inner),
            "ffn_down": (self.inner, self.width),
        }


# Of Llama 3.2 1B and Llama Guard 3 1B.
LLAMA_1B = Shape(16, 2048, 8192, 32, 8, tied=True)
# Of Llama 3.1 8B and Llama Guard 3 8B, but for the number of layers: those have 32.
LLAMA_8B_QUARTER = Shape(8, 4096, 14336, 32, 8, tied=False)


@dataclasses.dataclass(frozen=True)
class Mix:
    """A file type of llama.cpp."""

    # Its number, `general.file_type`.
    file_type: int
    # The format of the embedding and, by its name and its layer's index, of a layer's matrix among so many layers.
    embedding: int
    layer: Callable[[str, int, int], int]
    # Of the output, where it has a matrix of its own.
    output: int = Q6_K


def uniform(kind: int) -> Callable[[str, int, int], int]:
    """The same format everywhere."""
    return lambda _name, _layer, _layers: kind


def q4_k_m(name: str, layer: int, layers: int) -> int:
    """As `llama_tensor_get_type_impl` and its `use_more_bits` choose in llama.cpp's src/llama-quant.cpp: half of the value and
    down matrices have six bits, those of the first and the last eighth of the layers and every third one between."""
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return Q6_K if more and name in ("attn_v", "ffn_down") else Q4_K


Q4_0_MIX = Mix(2, Q8_0, uniform(Q4_0))
Q8_0_MIX = Mix(7, Q8_0, uniform(Q8_0))
BF16_MIX = Mix(32, BF16, uniform(BF16))
# Of a model with an output of its own.
Q4_K_M_MIX = Mix(15, Q4_K, q4_k_m)


def fill(file: GgufFile, shape: Shape, mix: Mix) -> GgufFile:
    """Gives a Llama decoder's file this shape, and random weights in place of its own."""
    numbers = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.width,
        "feed_forward_length": shape.inner,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "rope.dimension_count": shape.head_width,
    }
    for name, number in numbers.items():
        file.set_uint32(f"llama.{name}", number)
    file.set_float32("llama.rope.freq_base", shape.rope_base)
    file.set_uint32("general.file_type", mix.file_type)
    vocabulary = (shape.width, len(file.get(TOKENS)))
    file.tensors = [random_matrix("token_embd.weight", vocabulary, mix.embedding)]
    for layer in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            file.tensors.append(constant(f"blk.{layer}.{norm}.weight", shape.width, 1.0))
        for name, sizes in shape.matrices().items():
            kind = mix.layer(name, layer, shape.layers)
            file.tensors.append(random_matrix(f"blk.{layer}.{name}.weight", sizes, kind))
    file.tensors.append(constant("output_norm.weight", shape.width, 1.0))
    if not shape.tied:
        file.tensors.append(random_matrix("output.weight", vocabulary, mix.output))
    return file


def constant(name: str, width: int, number: float) -> Tensor:
    """A vector of one number in f32."""
    content = struct.pack("<f", number) * width
    return Tensor(name, (width,), F32, len(content), lambda out: out.write(content))


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a format's weights, in which everything but the f16 factors may have any bits."""

    weights: int
    size: int
    # By their offset. With them, weights of random bits have a mean near 0 and a standard deviation of about 0.02.
    factors: dict[int, float]


# Layouts: ggml/src/ggml-common.h in llama.cpp.
BLOCKS = {
    Q4_0: Block(32, 18, {0: 0.004}),
    Q8_0: Block(32, 34, {0: 0.00027}),
    # A weight is scale * step * bits - minimum * other step. Both steps are uniform over six bits, and the mean of four bits
    # is 7.5, so the minimum is 7.5 scales.
    Q4_K: Block(256, 144, {0: 7.7e-5, 2: 7.5 * 7.7e-5}),
    Q6_K: Block(256, 210, {208: 1.46e-5}),
}

# Of a random upper byte of a bf16: its sign stays, and its exponent becomes one for weights of 2^-7 to 2^-5, which with the
# lowest bit of the exponent in the lower byte have a root of the mean square of 0.019.
BF16_UPPER = bytes(0x3C | byte & 0x80 for byte in range(256))


def random_matrix(name: str, shape: tuple[int, int], kind: int) -> Tensor:
    """Weights with a standard deviation of about 0.02, the same ones for the same name, shape and format."""
    weights = shape[0] * shape[1]
    block = BLOCKS.get(kind, Block(1, 2, {}))
    blocks = weights // block.weights

    def write(out: BinaryIO) -> None:
        content = bytearray(random.Random(name).randbytes(blocks * block.size))
        if kind == BF16:
            content[1::2] = content[1::2].translate(BF16_UPPER)
        for offset, factor in block.factors.items():
            for index, byte in enumerate(struct.pack("<e", factor)):
                content[offset + index :: block.size] = bytes([byte]) * blocks
        out.write(content)

    return Tensor(name, shape, kind, blocks * block.size, write)
