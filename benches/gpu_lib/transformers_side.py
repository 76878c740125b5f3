"""transformers on a card: prefill, and decoding at some numbers of sequences, as JSON lines. Run by benches/gpu."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

PREFILL_TOKENS = 512
CONTEXT, DECODED = 350, 32
# Steps before the clock starts.
WARM_UP = 2


def seconds(work) -> float:
    torch.cuda.synchronize()
    begun = time.monotonic()
    work()
    torch.cuda.synchronize()
    return time.monotonic() - begun


def say(name: str, value: float, unit: str = "tokens/s") -> None:
    print(json.dumps({"name": name, "value": value, "unit": unit}), flush=True)


def made_up(fields: dict):
    """A model with random weights, which are made on the card."""
    kept = {name: value for name, value in fields.items() if name not in ("architectures", "model_type")}
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**kept)).eval()


@torch.inference_mode()
def main() -> None:
    fields = json.loads(sys.argv[1])
    model = made_up(fields)
    weights = {parameter.dtype for parameter in model.parameters()}
    if weights != {torch.bfloat16}:
        sys.exit(f"the weights are not all in bf16: {weights}")

    def tokens(sequences: int, count: int):
        return torch.randint(0, fields["vocab_size"], (sequences, count), device="cuda")

    for sequences in (1, 8):
        prompts = tokens(sequences, PREFILL_TOKENS)
        prefill = lambda prompts=prompts: model(prompts, logits_to_keep=1, use_cache=True)  # noqa: E731
        prefill()
        name = f"prefill {PREFILL_TOKENS}" if sequences == 1 else f"prefill {sequences} x {PREFILL_TOKENS}"
        say(name, prompts.numel() / seconds(prefill))
    for sequences in (1, 8, 64):
        cache = model(tokens(sequences, CONTEXT - WARM_UP), logits_to_keep=1, use_cache=True).past_key_values

        def steps(count: int, cache=cache, sequences=sequences) -> None:
            token = torch.zeros((sequences, 1), dtype=torch.long, device="cuda")
            for _ in range(count):
                token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        steps(WARM_UP)
        say(f"decode at {sequences}", sequences * DECODED / seconds(lambda: steps(DECODED)))
    say("memory of the card, at the most", torch.cuda.max_memory_reserved() / 2**30, "GiB")


main()
