"""The shapes of the models, and what computing a token of them costs."""

import dataclasses

BF16_BYTES = 2
# Tokens of a block of the KV cache, on cards.
BLOCK_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    def products(self) -> dict:
        """(outputs, inputs) of each product of a layer; keys and values are computed with the queries."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "qkv": (queries + 2 * keys, self.hidden),
            "output": (self.hidden, queries),
            "gate_up": (2 * self.inner, self.hidden),
            "down": (self.hidden, self.inner),
        }

    def layer_weights(self) -> int:
        return self.layers * sum(outputs * inputs for outputs, inputs in self.products().values())

    def flop_per_token(self) -> int:
        """Of the layers' products: two operations for each weight. Logits are computed for few tokens."""
        return 2 * self.layer_weights()

    def weight_bytes(self) -> int:
        """All matrices in bf16."""
        tables = 1 if self.tied else 2
        return BF16_BYTES * (self.layer_weights() + tables * self.vocabulary * self.hidden)

    def bytes_per_step(self) -> int:
        """Weights that a decode step reads: all layers and the output matrix."""
        return BF16_BYTES * (self.layer_weights() + self.vocabulary * self.hidden)

    def kv_bytes(self, tokens: int) -> int:
        return 2 * BF16_BYTES * self.layers * self.kv_heads * self.head_dim * tokens


# The names are those of `dummy:NAME`.
SHAPES = {
    "llama-guard-3-8b": Shape(32, 4096, 14336, 32, 8, 128, 128256, False),
    "llama-guard-3-1b": Shape(16, 2048, 8192, 32, 8, 64, 128256, True),
    "llama-3.2-3b": Shape(28, 3072, 8192, 24, 8, 128, 128256, True),
}
GUARD = "llama-guard-3-8b"
