"""Classifications through the server and through the real client, beside the engine's own figure for the same work.

Both compute the same guard (guard_folder.py) with prompts of the same numbers of tokens, of which the same number are
found in the cache, in steps of the same size. What is missing of the engine's figure is what the server costs: calls,
tokenizing, scheduling, and the time in which the card waits for the next step.
"""

import contextlib
import json
import pathlib
import random
import statistics
import subprocess
import tempfile
import threading
import time

from . import guard_folder, programs
from .programs import Failed
from .shapes import BLOCK_TOKENS, Shape

# Programs of the client, each with as many open calls as it has: 32.
CLIENTS = 4
# Sequences and tokens of a step. The server's default of 512 tokens is meant for processors.
BATCH_SEQUENCES, BATCH_TOKENS = 128, 4096
# The figure is of the conversations between these parts of all: when all clients are at work.
BEGIN, END = 0.1, 0.9


def conversations(count: int, seed: int) -> list:
    """Questions and answers of about 80 tokens together; the same seed gives the same ones."""
    draw = random.Random(seed)

    def sentence(words: int) -> str:
        return " ".join(draw.choice(guard_folder.WORDS) for _ in range(words)) + "."

    return [{"prompt": sentence(14), "text": " ".join(sentence(12) for _ in range(4))} for _ in range(count)]


class Clients:
    """Programs of the client that classify at the same time."""

    def __init__(self, binary: pathlib.Path, address: str, folder: pathlib.Path):
        self.command = [str(binary), "--server", f"http://{address}", "--format", "jsonl", "--quiet", "classify"]
        self.folder = folder

    def classify(self, items: list, seconds: float) -> list:
        """The time of each verdict, in seconds, and the verdict, in the order of their arrival."""
        arrived, lock = [], threading.Lock()

        def read(process: subprocess.Popen) -> None:
            for line in process.stdout:
                with lock:
                    arrived.append((time.monotonic(), json.loads(line)))

        with contextlib.ExitStack() as stack:
            processes, readers = [], []
            for number in range(CLIENTS):
                path = self.folder / f"items-{number}.jsonl"
                path.write_text("".join(json.dumps(item) + "\n" for item in items[number::CLIENTS]))
                process = stack.enter_context(
                    subprocess.Popen(
                        [*self.command, "--items", str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE, text=True, start_new_session=True,
                    )
                )  # fmt: skip
                reader = threading.Thread(target=read, args=(process,))
                reader.start()
                stack.callback(reader.join)
                stack.callback(programs.end, process)
                processes.append(process)
                readers.append(reader)
            limit = time.monotonic() + seconds
            for process in processes:
                try:
                    status = process.wait(max(limit - time.monotonic(), 0.1))
                except subprocess.TimeoutExpired:
                    raise Failed(f"{len(arrived)} of {len(items)} verdicts were there after {seconds:.0f} s") from None
                if status != 0:
                    raise Failed(f"`classify` ends with {status}: {process.stderr.read().strip()[-400:]}")
            for reader in readers:
                reader.join()
        if len(arrived) != len(items):
            raise Failed(f"{len(items)} conversations have {len(arrived)} verdicts")
        return arrived


def speed(arrived: list) -> float:
    """Conversations/s while all clients were at work."""
    times = [when for when, _ in arrived]
    first, last = int(BEGIN * len(times)), int(END * len(times)) - 1
    return (last - first) / (times[last] - times[first])


def work(arrived: list) -> tuple:
    """Tokens of a prompt, and those of them that were in the cache: whole blocks."""
    usage = [line["verdict"]["usage"] for _, line in arrived]
    # Only the first token is free: it is read from the last row of the prompt.
    longer = [counts for counts in usage if int(counts["completion_tokens"]) > 1]
    if longer:
        raise Failed(f"{len(longer)} of {len(usage)} verdicts were decoded beyond their first token: {longer[0]}")
    prompt = statistics.median(int(counts["prompt_tokens"]) for counts in usage)
    cached = statistics.median(int(counts["cached_prompt_tokens"]) for counts in usage)
    return int(prompt), int(cached) // BLOCK_TOKENS * BLOCK_TOKENS


def measure(options, shape: Shape, count: int, left) -> dict:
    """Conversations/s of the server and of the engine; `left()` gives the seconds that are left."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = folder / "guard"
        model.mkdir()
        guard_folder.write(model, shape)
        settings = {
            "BABELWARD_ENGINE__PRECISION": "bf16",
            "BABELWARD_ENGINE__MAX_BATCH_TOKENS": str(BATCH_TOKENS),
            "BABELWARD_ENGINE__MAX_BATCH_SEQUENCES": str(BATCH_SEQUENCES),
            # Steps are as large as the engine's own: nobody waits for the next token of an answer.
            "BABELWARD_ENGINE__STEP_TARGET": "off",
        }
        command = [options.binary, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
        # Which of the two it is depends on the number of layers.
        kind = "llama-guard-3-8b" if shape.layers == 32 else "llama-guard-3-1b"
        command += ["--guard", f"guard={model}", "--guard-kind", kind, "--device", options.device]
        with programs.server(command, settings, left()) as address:
            clients = Clients(options.binary, address, folder)
            clients.classify(conversations(count // 4, seed=1), left())
            arrived = clients.classify(conversations(count, seed=2), left())
        served = speed(arrived)
        prompt, cached = work(arrived)
        counts = ["--prompt-tokens", prompt, "--shared-tokens", cached, "--decode-tokens", 0]
        counts += ["--sequences", BATCH_SEQUENCES, "--max-batch-tokens", BATCH_TOKENS]
        command = [options.binary, "engine-bench", "--device", options.device, "--model", model, "--precision", "bf16"]
        found = json.loads(programs.run([*command, *counts], left()))
        return {
            "served": served,
            "engine": found["prefill_tok_s"] / (prompt - cached),
            "prompt_tokens": prompt,
            "cached_tokens": cached,
        }
