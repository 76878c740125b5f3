"""Measures OpenVINO GenAI on the CPU, run by an interpreter that has openvino-genai.

usage: openvino_side.py MODEL.gguf THREADS SETTING prefill TOKENS
       openvino_side.py MODEL.gguf THREADS SETTING decode CONTEXT STEPS SEQUENCES
       openvino_side.py MODEL.gguf THREADS SETTING classify CALLERS KV_TOKENS < {"warm_up": [...], "alone": [...], "load": [...]}

SETTING is one of SETTINGS. Everything runs in one process, without a server: nobody waits for one. Prefix caching is on, and
keys and values have the precision that OpenVINO chooses (eight bits in 2026.4). Prints one JSON object: {"tok_s"}, or of
classifications {"seconds", "alone", "memory", "tokens"}: seconds of the load, median seconds of a prompt alone, peak memory in
MiB, mean tokens of a prompt. A classification is a prompt and one token, the least that can hold a verdict."""

import json
import resource
import statistics
import sys
import time

import numpy
import openvino
import openvino_genai

# What OpenVINO can compute a GGUF file's packed weights in. The second keeps activations in f32 in place of eight bits.
SETTINGS = {
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "bf16-unquantised": {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "f32": {"INFERENCE_PRECISION_HINT": "f32"},
}


class Engine:
    """A pipeline with continuous batching, and its open requests."""

    def __init__(self, model: str, threads: int, setting: str, kv_tokens: int, batch_tokens: int = 2048):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        # Blocks of 32 tokens, and room for a few more sequences than fill them exactly.
        scheduler.num_kv_blocks = kv_tokens // 32 + 64
        scheduler.max_num_batched_tokens = batch_tokens
        properties = {"INFERENCE_NUM_THREADS": threads, **SETTINGS[setting]}
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self.tokenizer = self.pipeline.get_tokenizer()
        self.requests = 0

    def submit(self, tokens: list[int], new_tokens: int):
        """Queues a prompt, after which exactly so many tokens are generated. A request lives as long as what is returned."""
        options = openvino_genai.GenerationConfig()
        options.max_new_tokens = new_tokens
        options.ignore_eos = True
        options.do_sample = False
        self.requests += 1
        return self.pipeline.add_request(self.requests, openvino.Tensor(numpy.array([tokens], dtype=numpy.int64)), options)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, none of them added."""
        return self.tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()

    def finish(self, requests: list) -> None:
        """Computes until each of these has a token."""
        while not all(request.can_read() for request in requests):
            self.pipeline.step()


def distinct(count: int, seed: int) -> list[int]:
    """A prompt of so many tokens that begins like no other, so that the prefix cache saves nothing."""
    draw = numpy.random.default_rng(seed)
    return draw.integers(100, 20000, count).tolist()


def prefill(engine: Engine, count: int) -> float:
    """Tokens/s of one prompt's prefill; the second of two counts, as the first one warms up."""
    for seed in (1, 2):
        request = engine.submit(distinct(count, seed), 1)
        begin = time.perf_counter()
        engine.finish([request])
        seconds = time.perf_counter() - begin
    return count / seconds


def decode(engine: Engine, context: int, steps: int, sequences: int) -> float:
    """Tokens/s over all sequences, behind their prompts."""
    for seed in (1, 2):
        # One token is the prefill's, and one step more fills the batch for certain.
        requests = [engine.submit(distinct(context, 1000 * seed + index), steps + 2) for index in range(sequences)]
        engine.finish(requests)
        engine.pipeline.step()
        begin = time.perf_counter()
        for _ in range(steps - 1):
            engine.pipeline.step()
        seconds = time.perf_counter() - begin
        while engine.pipeline.has_non_finished_requests():
            engine.pipeline.step()
    return sequences * (steps - 1) / seconds


def classify(engine: Engine, callers: int, work: dict[str, list[str]]) -> dict[str, float]:
    """Conversations as callers would send them, so many at a time."""

    def drive(prompts: list[str]) -> int:
        waiting, open_requests, tokens = list(prompts), [], 0
        while waiting or open_requests:
            while waiting and len(open_requests) < callers:
                prompt = engine.tokens(waiting.pop(0))
                tokens += len(prompt)
                open_requests.append(engine.submit(prompt, 1))
            engine.pipeline.step()
            open_requests = [request for request in open_requests if not request.can_read()]
        return tokens

    drive(work["warm_up"])
    alone = []
    for prompt in work["alone"]:
        begin = time.perf_counter()
        engine.finish([engine.submit(engine.tokens(prompt), 1)])
        alone.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    tokens = drive(work["load"])
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "alone": statistics.median(alone),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "tokens": tokens / len(work["load"]),
    }


def main() -> None:
    model, threads, setting, kind, *numbers = sys.argv[1:]
    counts = [int(number) for number in numbers]
    match kind:
        case "prefill":
            engine = Engine(model, int(threads), setting, 4 * counts[0])
            answer = {"tok_s": prefill(engine, *counts)}
        case "decode":
            context, steps, sequences = counts
            # All prompts in one step, so that all sequences end with the same one.
            prompts = max(2048, sequences * context)
            engine = Engine(model, int(threads), setting, 4 * sequences * (context + steps), prompts)
            answer = {"tok_s": decode(engine, *counts)}
        case "classify":
            callers, kv_tokens = counts
            engine = Engine(model, int(threads), setting, kv_tokens)
            answer = classify(engine, callers, json.load(sys.stdin))
        case _:
            sys.exit(__doc__)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
