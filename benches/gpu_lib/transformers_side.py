"""transformers on a card: prefill, and decoding at some numbers of sequences, as JSON lines. Run by benches/gpu."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

PREFILL_TOKENS, PREFILL_SEQUENCES = 512, 8
CONTEXT, DECODED = 350, 32


def seconds(work) -> float:
    torch.cuda.synchronize()
    begun = time.monotonic()
    work()
    torch.cuda.synchronize()
    return time.monotonic() - begun


def say(name: str, value: float) -> None:
    print(json.dumps({"name": name, "value": value, "unit": "tokens/s"}), flush=True)


@torch.inference_mode()
def main() -> None:
    fields = json.loads(sys.argv[1])
    config = LlamaConfig(
        **{name: value for name, value in fields.items() if name not in ("architectures", "model_type")}
    )
    # Weights that nobody initialises are numbers all the same, and initialising takes longer than measuring.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model = model.to_empty(device="cuda").eval()
    for parameter in model.parameters():
        parameter.fill_(0.01)
    tokens = torch.randint(0, config.vocab_size, (PREFILL_SEQUENCES, PREFILL_TOKENS), device="cuda")
    prefill = lambda: model(tokens, logits_to_keep=1, use_cache=True)  # noqa: E731
    prefill()
    say("prefill", tokens.numel() / seconds(prefill))
    for sequences in (1, 8, 64):
        context = torch.randint(0, config.vocab_size, (sequences, CONTEXT), device="cuda")
        output = model(context, logits_to_keep=1, use_cache=True)

        def steps(cache=output.past_key_values, count=sequences) -> None:
            token = torch.zeros((count, 1), dtype=torch.long, device="cuda")
            for _ in range(DECODED):
                token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        say(f"decode at {sequences}", sequences * DECODED / seconds(steps))


main()
