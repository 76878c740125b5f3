"""How far each side is from what the machine can do at best: a forward pass cannot take less time than its products
at the machine's peak in f32, nor less than reading its weights, keys and values once. Both limits are measured here,
by OpenBLAS through numpy."""

import dataclasses
import os
import pathlib
import sys

from . import engine
from .gguf_file import GgufFile
from .machine import Setup, progress, run

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Work:
    """What a model costs whoever computes it, from its file alone."""

    # Weights in the layers' matrices and in the output's, and the bytes that all of them take in the file.
    layer_weights: int
    output_weights: int
    matrix_bytes: int
    # Numbers in a token's keys and values, and multiplications of a query token with one context token.
    kv_values: int
    attention_products: int

    @classmethod
    def of(cls, path: pathlib.Path) -> "Work":
        """Of a dense model."""
        file = GgufFile.open(path)
        matrices = {tensor.name: tensor for tensor in file.tensors if tensor.is_matrix}
        layers = [tensor for name, tensor in matrices.items() if name.startswith("blk.")]
        output = matrices.get("output.weight") or matrices["token_embd.weight"]
        return cls(
            sum(tensor.shape[0] * tensor.shape[1] for tensor in layers),
            output.shape[0] * output.shape[1],
            sum(tensor.size for tensor in layers) + output.size,
            file.kv_values_per_token(),
            2 * file.hyperparameter("embedding_length") * file.hyperparameter("block_count"),
        )

    def flop(self, sequences: int, new: int, context: float) -> float:
        """Of a pass over `new` tokens in each sequence, each with `context` before it on average: two per weight
        and token, attention, and one row of logits for each sequence."""
        per_token = self.layer_weights + self.attention_products * context
        return 2 * sequences * (new * per_token + self.output_weights)

    def bytes(self, sequences: int, context: float) -> float:
        """Read by it: the weights once, and each sequence's keys and values in f16."""
        return self.matrix_bytes + sequences * context * self.kv_values * 2


class Roofline:
    """The machine's limits for one model, and figures in terms of them."""

    def __init__(self, setup: Setup):
        self.work = Work.of(setup.model)
        packages = setup.python_packages(HERE / "requirements.txt")
        self.gemm = probe(packages, setup.threads, ["gemm"])
        self.read = probe(packages, 1, ["read", setup.threads, self.work.matrix_bytes])
        progress(
            f"roofline: {self.gemm / 1e9:.0f} GFLOP/s in f32 products, {self.read / 1e9:.1f} GB/s reading "
            f"{self.work.matrix_bytes / 1e6:.0f} MB of weights"
        )

    def line(self, name: str, ours: float, peer: float, quick: bool) -> dict:
        """A figure of tokens/s as a share of the limit that binds it."""
        speed = engine.Speed.of(name)
        if speed.prefill:
            sequences, new, context = 1, speed.count, speed.count / 2
        else:
            sequences, new, context = speed.count, 1, engine.CONTEXT + engine.steps(quick) / 2
        flop, read = self.work.flop(sequences, new, context), self.work.bytes(sequences, context)
        if flop / self.gemm > read / self.read:
            unit, limit, per_token = "GFLOP/s", self.gemm, flop / (sequences * new)
        else:
            unit, limit, per_token = "GB/s", self.read, read / (sequences * new)
        return {
            "name": f"roofline_{name}",
            "unit": unit,
            "limit": round(limit / 1e9, 1),
            "ours": round(ours * per_token / 1e9, 1),
            "peer": round(peer * per_token / 1e9, 1),
            "ours_share": round(ours * per_token / limit, 3),
            "peer_share": round(peer * per_token / limit, 3),
        }


def probe(packages: str, blas_threads: int, arguments: list) -> float:
    """One measurement, with OpenBLAS choosing its kernels by itself."""
    environment = {key: text for key, text in os.environ.items() if not key.startswith("OPENBLAS_")}
    environment |= {"OPENBLAS_NUM_THREADS": str(blas_threads), "PYTHONPATH": packages}
    return float(run([sys.executable, HERE / "roofline_probe.py", *arguments], environment=environment))
