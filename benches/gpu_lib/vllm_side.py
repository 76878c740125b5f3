"""vLLM on a card: conversations that share a prefix, and decoding, as JSON lines. Run by benches/gpu."""

import json
import pathlib
import random
import sys
import tempfile
import time

from vllm import LLM, SamplingParams

CONVERSATION, SHARED, CONVERSATIONS = 350, 220, 64
DECODED = 32


def main() -> None:
    fields = json.loads(sys.argv[1])
    choose = random.Random(1)
    tokens = lambda count: [choose.randrange(1000, 100000) for _ in range(count)]  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(fields))
        engine = LLM(model=folder, load_format="dummy", skip_tokenizer_init=True, max_model_len=2048, dtype="bfloat16")
    shared = tokens(SHARED)

    def speed(length: int, answers: int) -> float:
        prompts = [{"prompt_token_ids": shared + tokens(length - SHARED)} for _ in range(CONVERSATIONS)]
        sampling = SamplingParams(max_tokens=answers, ignore_eos=True, temperature=0, detokenize=False)
        begun = time.monotonic()
        engine.generate(prompts, sampling, use_tqdm=False)
        return CONVERSATIONS / (time.monotonic() - begun)

    speed(CONVERSATION, 1)
    print(json.dumps({"name": "classify", "value": speed(CONVERSATION, 1), "unit": "conversations/s"}), flush=True)
    decoded = speed(CONVERSATION, DECODED) * DECODED
    print(json.dumps({"name": f"decode at {CONVERSATIONS}, prefill included", "value": decoded, "unit": "tokens/s"}))


if __name__ == "__main__":
    main()
