"""vLLM on a card: conversations that share a prefix, and decoding, as JSON lines. Run by benches/gpu."""

import json
import pathlib
import random
import sys
import tempfile
import time

from vllm import LLM, SamplingParams

# As for our engine: of the policy's tokens, whole blocks of 16 are found in the cache.
CONVERSATION, POLICY, CONVERSATIONS = 350, 220, 64
DECODED = 32


def main() -> None:
    fields = json.loads(sys.argv[1])
    choose = random.Random(1)
    tokens = lambda count: [choose.randrange(1000, 100000) for _ in range(count)]  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(fields))
        engine = LLM(
            model=folder, load_format="dummy", skip_tokenizer_init=True, max_model_len=2048, dtype="bfloat16",
            enable_prefix_caching=True,
        )  # fmt: skip
    policy = tokens(POLICY)

    def seconds(answers: int) -> float:
        """Conversations that nobody has asked about before, with answers of so many tokens."""
        prompts = [{"prompt_token_ids": policy + tokens(CONVERSATION - POLICY)} for _ in range(CONVERSATIONS)]
        sampling = SamplingParams(max_tokens=answers, ignore_eos=True, temperature=0, detokenize=False)
        begun = time.monotonic()
        engine.generate(prompts, sampling, use_tqdm=False)
        return time.monotonic() - begun

    def say(name: str, value: float, unit: str) -> None:
        print(json.dumps({"name": name, "value": value, "unit": unit}), flush=True)

    # The first ones put the policy into the cache.
    seconds(1 + DECODED)
    verdicts = min(seconds(1) for _ in range(3))
    say("classify", CONVERSATIONS / verdicts, "conversations/s")
    answers = min(seconds(1 + DECODED) for _ in range(3))
    # What the answers take beyond the prompts, which are computed in the same way.
    say(f"decode at {CONVERSATIONS}", CONVERSATIONS * DECODED / (answers - verdicts), "tokens/s")


if __name__ == "__main__":
    main()
