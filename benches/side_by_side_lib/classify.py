"""The same guard conversations through each side's server: conversations per second, time to the first verdict of an
idle server, and peak memory.

Every prompt begins with the guard's policy text, the same in all of them, and ends with a conversation of about 75
tokens and the task's closing words. No two conversations are alike, so that a cache can save the policy and nothing
else. The peer is sent the very text that our guard would be given (`babelward guard-prompts`). The same number of
callers keeps both servers busy, each with one request in flight. Theirs is asked for one token (`n_predict` 1), the
least that can hold a verdict; ours answers whole verdicts, and decodes on where a guard names categories."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import http.client
import json
import pathlib
import queue
import random
import socket
import statistics
import threading
import time

from .gguf_file import LLAMA_3_HEADERS, GgufFile
from .machine import Failed, Setup, client_class, http_ok, our_server, peak_rss_mib, progress, run, server, unmapped

CALLERS = 8
# Tokens of KV memory that each side may hold, all callers together.
KV_TOKENS = CALLERS * 1536
# Conversations that are asked one at a time, for the latency of an idle server.
ALONE = 12

WORDS = (
    "garden bread river mountain window letter music winter summer market teacher doctor bridge kitchen table "
    "paper water stone forest harbour village engine lamp bottle blanket clock candle basket carpet ladder "
    "mirror pencil pocket ribbon saddle ticket wagon yellow quiet heavy simple narrow gentle early careful "
    "carry gather measure repair deliver follow borrow finish explain remember because without between before "
    "after under about every other people morning evening"
).split()


def conversations(count: int, seed: int) -> list[tuple[str, str]]:
    """Questions and answers of about 80 tokens together; the same seed gives the same ones."""
    draw = random.Random(seed)

    def sentence(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(words)).capitalize() + "."

    return [(sentence(14), " ".join(sentence(12) for _ in range(4))) for _ in range(count)]


def prompts(setup: Setup, load: list[tuple[str, str]]) -> list[str]:
    """The texts that our guard is given for these conversations."""
    lines = "".join(json.dumps({"user": user, "assistant": agent}) + "\n" for user, agent in load)
    command = [setup.ours, "guard-prompts", "--model", setup.model, *guard_kind(setup.model)]
    return [json.loads(line)["prompt"] for line in run(command, stdin=lines).splitlines()]


# A model that is no guard is asked in the words of one, with examples.
GUARD_KIND = ["--guard-kind", "chat-demo"]


@functools.cache
def guard_kind(model: pathlib.Path) -> list[str]:
    """The arguments that tell our program how to ask this model: with Llama Guard 3's prompt where it has that prompt's tokens."""
    tokens = GgufFile.open(model).get("tokenizer.ggml.tokens")
    return ["--guard-kind", "llama-guard-3-8b"] if set(LLAMA_3_HEADERS) <= set(tokens) else GUARD_KIND


@dataclasses.dataclass
class Measured:
    """One side's repetitions."""

    # Conversations/s with all callers, ms of a conversation alone (median), MiB, tokens of a prompt (mean).
    speed: list[float] = dataclasses.field(default_factory=list)
    alone: list[float] = dataclasses.field(default_factory=list)
    memory: list[float] = dataclasses.field(default_factory=list)
    tokens: list[float] = dataclasses.field(default_factory=list)


def load_size(quick: bool) -> int:
    """Conversations of a repetition."""
    return 24 if quick else 96


def work(repetition: int, count: int) -> dict[str, list[tuple[str, str]]]:
    """The conversations of a repetition, of which `count` are its load; the same on all sides."""
    return {
        "warm_up": conversations(CALLERS, seed=1_000_000 + repetition),
        "alone": conversations(ALONE, seed=2_000_000 + repetition),
        "load": conversations(count, seed=repetition),
    }


def measure(setup: Setup, repetitions: int, quick: bool) -> tuple[Measured, Measured]:
    """Alternating repetitions of ours and the peer."""
    measured = (Measured(), Measured())
    for repetition in range(repetitions):
        of_repetition = work(repetition, load_size(quick))
        for side, out in zip((Ours(setup), Peer(setup)), measured):
            measure_server(side, of_repetition, out)
        ours, peer = measured
        progress(
            f"classify {repetition + 1}/{repetitions}: ours {ours.speed[-1]:.2f}, peer {peer.speed[-1]:.2f} "
            f"conversations/s of {ours.tokens[-1]:.0f} and {peer.tokens[-1]:.0f} tokens; "
            f"alone {ours.alone[-1]:.0f} and {peer.alone[-1]:.0f} ms; "
            f"peak {ours.memory[-1]:.0f} and {peer.memory[-1]:.0f} MiB"
        )
        check_same_work(ours.tokens[-1], peer.tokens[-1])
    return measured


def measure_server(side, work: dict[str, list[tuple[str, str]]], out: Measured) -> None:
    """One repetition of a side's server."""
    with side.serve() as (address, process):
        ask = side.asker(address)
        drive(ask, side.requests(work["warm_up"]))
        out.alone.append(1000 * latency(ask, side.requests(work["alone"])))
        seconds, used = drive(ask, side.requests(work["load"]))
        out.speed.append(len(work["load"]) / seconds)
        out.memory.append(peak_rss_mib(process))
        out.tokens.append(sum(used) / len(work["load"]))


def check_same_work(ours: float, peer: float) -> None:
    """That prompts have as many tokens on both sides."""
    # Two programs split a few words otherwise: OpenVINO counts 328 tokens where ours and llama.cpp count 321.
    if abs(ours - peer) > 0.03 * peer:
        raise Failed(f"the two sides were not given the same work: prompts of {ours:.0f} and of {peer:.0f} tokens")


def latency(ask, requests) -> float:
    """Median seconds of one request after the other."""
    seconds = []
    with ask() as send:
        for request in requests:
            begin = time.perf_counter()
            send(request)
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def drive(ask, requests, callers: int = CALLERS) -> tuple[float, list[int]]:
    """Sends all requests from as many callers; seconds from first to last, and what each one's sending came to."""
    work: queue.SimpleQueue = queue.SimpleQueue()
    for request in requests:
        work.put(request)
    gate = threading.Barrier(callers + 1)

    def caller() -> list[int]:
        with ask() as send:
            gate.wait()
            counts = []
            while True:
                try:
                    request = work.get_nowait()
                except queue.Empty:
                    return counts
                counts.append(send(request))

    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        running = [pool.submit(caller) for _ in range(callers)]
        gate.wait()
        begin = time.perf_counter()
        used = [count for done in running for count in done.result()]
        return time.perf_counter() - begin, used


class Ours:
    """Our server, asked by Python's grpcio through reflection with unary Classify."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.client_class = client_class(setup.root, setup.ours.parent.parent)

    def serve(self):
        """The server with the model as a guard."""
        return serve(self.setup, "--guard", KV_TOKENS)

    def requests(self, load: list[tuple[str, str]]) -> list[dict]:
        """As conversations: the server puts the guard's prompt around them."""
        roles = ("ROLE_USER", "ROLE_ASSISTANT")
        return [
            {"conversation": {"messages": [{"role": r, "content": text} for r, text in zip(roles, pair)]}}
            for pair in load
        ]

    def asker(self, address: str):
        """A maker of callers; they share one channel, as a client's threads would."""
        client = self.client_class(address)

        @contextlib.contextmanager
        def ask():
            def send(request: dict) -> int:
                return client.call("SafetyService/Classify", request).verdict.usage.prompt_tokens

            yield send

        return ask


def serve(setup: Setup, role: str, kv_tokens: int):
    """Our server with room for so many tokens; `role` is --guard or --model."""
    # Our keys and values are f16, as the peer's are, or bf16, but in f32.
    kv_bytes = kv_tokens * GgufFile.open(setup.model).kv_values_per_token() * (4 if setup.precision == "f32" else 2)
    settings = {"BABELWARD_ENGINE__KV_MEMORY": str(kv_bytes), "BABELWARD_ENGINE__PRECISION": setup.precision}
    kind = guard_kind(setup.model) if role == "--guard" else []
    return our_server(setup.ours, [role, f"bench={setup.model}", *kind], setup.threads, settings)


class Peer:
    """llama-server, asked over kept-alive HTTP connections with /completion."""

    def __init__(self, setup: Setup):
        self.setup = setup

    def serve(self):
        """One slot per caller; prompt caching and continuous batching are on, as by default. Its second cache,
        of evicted slots, can never hit here and would only add to its memory: off. For its memory, too, it does not map
        the file."""
        setup = self.setup
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [setup.peer / "llama-server", "-m", setup.model, "--host", "127.0.0.1", "--port", port]
        command += ["-t", setup.threads, "-tb", setup.threads, "-np", CALLERS, "-c", KV_TOKENS]
        command += ["--cache-ram", 0, *unmapped(setup.peer / "llama-server")]

        def ready(_process, _log):
            return f"127.0.0.1:{port}" if http_ok(f"http://127.0.0.1:{port}/health") else None

        return server(command, ready)

    def requests(self, load: list[tuple[str, str]]) -> list[dict]:
        """As the guard's whole prompts."""
        options = {"n_predict": 1, "temperature": 0, "cache_prompt": True}
        return [{"prompt": prompt, **options} for prompt in prompts(self.setup, load)]

    def asker(self, address: str):
        """A maker of callers, each with a connection of its own."""
        @contextlib.contextmanager
        def ask():
            connection = http.client.HTTPConnection(address, timeout=300)

            def send(request: dict) -> int:
                connection.request("POST", "/completion", json.dumps(request), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    raise Failed(f"llama-server answered {answer.status}: {content[:500]!r}")
                return json.loads(content)["tokens_evaluated"]

            try:
                yield send
            finally:
                connection.close()

        return ask


def by_transformers(setup: Setup, python: str, repetitions: int, quick: bool) -> list[float]:
    """Conversations/s of the same prompts by this interpreter's transformers, as many in a batch as there are
    callers. Without a server: nobody waits for one."""
    load = prompts(setup, conversations(load_size(quick), seed=0))
    program = pathlib.Path(__file__).resolve().parent / "transformers_side.py"
    command = [python, program, setup.model, setup.threads, CALLERS, repetitions]
    result = json.loads(run(command, stdin=json.dumps(load)))
    speed = [len(load) / seconds for seconds in result["seconds"]]
    progress(f"transformers in {result['dtype']}: {speed[-1]:.2f} conversations/s of {result['tokens']:.0f} tokens")
    return speed
