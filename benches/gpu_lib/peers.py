"""Other engines on the same card with made-up weights in the same shape; each is a program that prints JSON."""

import json
import pathlib

from .shapes import GUARD, SHAPES

HERE = pathlib.Path(__file__).resolve().parent


def model_config() -> dict:
    """The guard's shape, as Hugging Face writes it."""
    shape = SHAPES[GUARD]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
    }


def commands(options) -> dict:
    """The peers that were named, and what to run for each."""
    config = json.dumps(model_config())
    found = {}
    if options.transformers:
        found["transformers"] = [options.transformers, HERE / "transformers_side.py", config]
    if options.vllm:
        found["vllm"] = [options.vllm, HERE / "vllm_side.py", config]
    if options.llama_cpp:
        counts = ["-ngl", 99, "-p", 512, "-n", 32, "-r", 2, "-o", "json"]
        found["llama.cpp"] = [options.llama_cpp / "llama-bench", "-m", options.gguf, *counts]
    return found


def figures(peer: str, text: str) -> list:
    if peer == "llama.cpp":
        return [
            {
                "name": f"prefill {line['n_prompt']}" if line["n_prompt"] else "decode at 1",
                "value": line["avg_ts"],
                "unit": "tokens/s",
                "model": line["model_type"],
            }
            for line in json.loads(text)
        ]
    return [{**json.loads(line), "model": GUARD} for line in text.splitlines() if line.startswith("{")]
