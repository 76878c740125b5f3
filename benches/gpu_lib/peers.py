"""Other engines on the same card; each is a program that prints JSON.

transformers and vLLM make random weights up in the guard's shape. llama.cpp needs a file: it is the same work where the
file has this shape, and weights in bf16 or f16; its lines name what the file has.
"""

import json
import pathlib

from . import guard_folder
from .shapes import GUARD, SHAPES

HERE = pathlib.Path(__file__).resolve().parent


def commands(options) -> list:
    """What to run: pairs of a peer's name and a command."""
    config = json.dumps(guard_folder.config(SHAPES[GUARD]))
    found = []
    if options.transformers:
        found.append(("transformers", [options.transformers, HERE / "transformers_side.py", config]))
    if options.vllm:
        found.append(("vllm", [options.vllm, HERE / "vllm_side.py", config]))
    if options.llama_cpp:
        bench = [options.llama_cpp / "llama-bench", "-m", options.gguf, "-ngl", 99, "-r", 2, "-o", "json"]
        # The same counts as ours: a prompt, and steps of one sequence behind a context.
        found.append(("llama.cpp", [*bench, "-p", 512, "-n", 0]))
        found.append(("llama.cpp", [*bench, "-p", 0, "-n", 32, "-d", 350]))
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
