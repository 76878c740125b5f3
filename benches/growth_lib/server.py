"""A server that is measured, what it says of itself, and calls whose requests are ready before a clock starts."""

import contextlib
import dataclasses
import json
import pathlib
import re
import subprocess
import urllib.request

from side_by_side_lib import machine
from side_by_side_lib.gguf_file import GgufFile

STEP_SECONDS, STEPS = "babelward_step_seconds_sum", "babelward_steps_total"
# Taking arrivals and planning, by step. Programs older than this tree do not tell it.
SCHEDULING_SECONDS = "babelward_scheduling_seconds_sum"
QUEUED, RUNNING, KV_BLOCKS = "babelward_queue_depth", "babelward_running", "babelward_kv_blocks"
CALLS = "babelward_requests_total"


class Metrics:
    """One reading of a server's metrics."""

    def __init__(self, text: str):
        self.series = []
        for line in text.splitlines():
            # Most lines are those of buckets, which nobody asks for.
            if line.startswith("#") or "_bucket{" in line:
                continue
            found = re.match(r'(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)', line)
            if found:
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
                self.series.append((found[1], labels, float(found[3])))

    @classmethod
    def read(cls, address: str) -> "Metrics":
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
            return cls(answer.read().decode())

    def has(self, name: str) -> bool:
        return any(found == name for found, _, _ in self.series)

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series with these labels: 0 where there is none, for a counter appears with its first count."""
        return sum(
            value
            for found, has, value in self.series
            if found == name and all(has.get(label) == wanted for label, wanted in labels.items())
        )

    def scheduling(self, before: "Metrics") -> float | None:
        """Seconds of scheduling since an earlier reading; None where the program does not tell them."""
        if not self.has(SCHEDULING_SECONDS):
            return None
        return self.total(SCHEDULING_SECONDS) - before.total(SCHEDULING_SECONDS)


@dataclasses.dataclass(frozen=True)
class Served:
    """A running server."""

    # Of the gRPC port and of the metrics.
    address: str
    metrics_address: str
    process: subprocess.Popen

    def metrics(self) -> Metrics:
        return Metrics.read(self.metrics_address)


@contextlib.contextmanager
def served(setup: machine.Setup, settings: dict[str, str]):
    """Our server with the model as a target, on free ports; settings are names of keys in capitals, such as
    ENGINE__QUEUE_ITEMS."""
    command = [setup.ours, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    command += ["--model", f"bench={setup.model}"]
    own = {"ENGINE__THREADS": str(setup.threads), "ENGINE__PRECISION": setup.precision}
    environment = {f"BABELWARD_{name}": value for name, value in (own | settings).items()}

    def ready(_process, log):
        log.seek(0)
        text = log.read()
        log.seek(0, 2)
        grpc = re.search(r"gRPC +https?://(\S+:\d+)", text)
        metrics = re.search(r"metrics +https?://(\S+:\d+)/metrics\n", text)
        return (grpc[1], metrics[1]) if grpc and metrics else None

    with machine.server(command, ready, environment) as ((address, metrics_address), process):
        yield Served(address, metrics_address, process)


def client_class(setup: machine.Setup):
    """The tests' Python client, whose packages are in cargo's target folder wherever the measured program is."""
    return machine.client_class(setup.root, machine.target_folder(setup.root))


def vocabulary(model: pathlib.Path) -> int:
    """Tokens of a model's vocabulary, from a GGUF file or a folder."""
    if model.is_dir():
        return json.loads((model / "config.json").read_text())["vocab_size"]
    return len(GgufFile.open(model).get("tokenizer.ggml.tokens"))


class Generate:
    """Calls of Generate, over one connection or several in turn. Answers stay bytes until somebody wants to know."""

    METHOD = "/babelward.v1.GenerationService/Generate"

    def __init__(self, setup: machine.Setup, address: str, connections: int = 1):
        client = client_class(setup)
        # That has made it importable.
        import grpc

        self.client = client(address)
        # Channels to one address share a connection unless each has a pool of its own.
        own = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.insecure_channel(address, own) for _ in range(connections)]
        self.methods = [channel.unary_stream(self.METHOD) for channel in self.channels]
        self.opened = 0

    def close(self) -> None:
        """Cancels what is open."""
        for channel in (*self.channels, self.client.channel):
            channel.close()

    def encode(self, tokens: list[int], new_tokens: int) -> bytes:
        """A request that continues these tokens by so many, greedily."""
        fields = {
            "token_ids": {"ids": tokens},
            "stopping": {"max_new_tokens": new_tokens},
            "sampling": {"temperature": 0},
        }
        return self.client.message("GenerateRequest", fields).SerializeToString()

    def open(self, request: bytes):
        """A call, whose answers can be iterated over."""
        method = self.methods[self.opened % len(self.methods)]
        self.opened += 1
        return method(request)

    def cached_tokens(self, answers: list[bytes]) -> int:
        """How many of a prompt's tokens were in the prefix cache, by the last message of the answer."""
        last = self.client.message("GenerateResponse", {})
        last.ParseFromString(answers[-1])
        return last.finished.usage.cached_prompt_tokens
