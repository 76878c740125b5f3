"""Classifies prompts with transformers on the CPU, run by an interpreter that has torch, transformers, gguf and
accelerate.

usage: transformers_side.py MODEL.gguf THREADS BATCH REPETITIONS < PROMPTS

PROMPTS is one JSON list of texts. A batch is one forward pass over whole prompts with logits for the last token only,
the least that can hold a verdict. Prints {"dtype", "tokens", "seconds"} for whichever of f32 and bf16 is faster on a
batch: mean tokens of a prompt, and what all prompts took in each repetition."""

import json
import pathlib
import sys
import time

import torch
import transformers


def load(path: pathlib.Path, dtype: torch.dtype):
    """The model with its weights dequantised, which older versions do anyway."""
    options = {"gguf_file": path.name, "dtype": dtype}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, **options).eval()


def classify(model, batches) -> float:
    """Seconds of all batches."""
    begin = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model(**batch, logits_to_keep=1, use_cache=False).logits.argmax(-1).tolist()
    return time.perf_counter() - begin


def main() -> None:
    path = pathlib.Path(sys.argv[1])
    threads, size, repetitions = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = json.load(sys.stdin)
    batches = [
        tokenizer(prompts[i : i + size], return_tensors="pt", padding=True, add_special_tokens=False)
        for i in range(0, len(prompts), size)
    ]
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) / len(prompts)
    best = None
    for dtype in (torch.float32, torch.bfloat16):
        model = load(path, dtype)
        classify(model, batches[:1])
        seconds = classify(model, batches[:1])
        print(f"{dtype}: {seconds / size:.3f} s a prompt", file=sys.stderr)
        if best is None or seconds < best[0]:
            best = (seconds, str(dtype).removeprefix("torch."), model)
    _, name, model = best
    seconds = [classify(model, batches) for _ in range(repetitions)]
    print(json.dumps({"dtype": name, "tokens": tokens, "seconds": seconds}))


if __name__ == "__main__":
    main()
