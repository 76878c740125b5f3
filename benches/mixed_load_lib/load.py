"""The loads: verdicts arrive at random whatever the server does, generations are kept open all the time."""

import concurrent.futures
import contextlib
import dataclasses
import math
import pathlib
import random
import threading
import time

from side_by_side_lib import machine
from side_by_side_lib.classify import GUARD_KIND, conversations

# Verdicts per second, and how many: alone and beside generations.
RATE, IDLE, LOADED = 1.5, 45, 75
# Tokens of a generation's answer at most.
ANSWER = 100
# Seconds of generations alone before verdicts begin.
RAMP = 8.0
# A generation that gets no token for so long has starved.
STARVED = 20.0
# Of the tenants' part: open generations, how many run at a time, seconds.
FLOOD, MODEST, PLACES, TENANT_SECONDS = 40, 10, 8, 45.0


@dataclasses.dataclass(frozen=True)
class Setup:
    """What serves, and what it is asked."""

    root: pathlib.Path
    program: pathlib.Path
    model: pathlib.Path
    threads: int
    seed: int
    # Generations that are open at a time, beside verdicts.
    streams: int


@contextlib.contextmanager
def served(setup: Setup, settings: dict[str, str]):
    """A server of its own, with the model in both roles; yields a client that knows it by reflection."""
    client_class = machine.client_class(setup.root, machine.target_folder(setup.root))
    arguments = ["--model", f"m={setup.model}", "--guard", "m", *GUARD_KIND]
    with machine.our_server(setup.program, arguments, setup.threads, settings) as (address, _process):
        yield client_class(address)


def methods(client):
    """(classify, generate): functions of a dictionary and metadata."""
    from google.protobuf import json_format, message_factory

    def of(service: str, name: str, arity: str):
        method = client.pool.FindServiceByName(f"babelward.v1.{service}").FindMethodByName(name)
        inputs = message_factory.GetMessageClass(method.input_type)
        outputs = message_factory.GetMessageClass(method.output_type)
        call = getattr(client.channel, arity)(
            f"/babelward.v1.{service}/{name}",
            request_serializer=inputs.SerializeToString,
            response_deserializer=outputs.FromString,
        )

        def ask(fields: dict, tenant: str | None = None):
            metadata = (("x-babelward-tenant", tenant),) if tenant else ()
            message = json_format.ParseDict(fields, inputs(), descriptor_pool=client.pool)
            return call(message, timeout=300, metadata=metadata)

        return ask

    return of("SafetyService", "Classify", "unary_unary"), of("GenerationService", "Generate", "unary_stream")


def judged(pair: tuple[str, str]) -> dict:
    roles = ("ROLE_USER", "ROLE_ASSISTANT")
    return {"conversation": {"messages": [{"role": r, "content": text} for r, text in zip(roles, pair)]}}


class Generations:
    """Keeps a number of generations open until it is left."""

    def __init__(self, generate, streams: int, tenant: str | None, seed: int):
        self.generate, self.tenant = generate, tenant
        self.prompts = iter(conversations(5000, seed))
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.tokens: list[float] = []
        self.first: list[float] = []
        self.finished = self.starved = 0
        self.longest_gap = 0.0
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(streams)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def run(self, number: int) -> None:
        while not self.stop.is_set():
            with self.lock:
                prompt = " ".join(next(self.prompts))
                seed = self.finished * 1000 + number
            self.one(
                {
                    "conversation": {"messages": [{"role": "ROLE_USER", "content": prompt}]},
                    "sampling": {"temperature": 1, "seed": seed},
                    "stopping": {"maxNewTokens": ANSWER},
                }
            )

    def one(self, request: dict) -> None:
        asked = last = time.monotonic()
        answers, gap, begun = self.generate(request, self.tenant), 0.0, None
        for answer in answers:
            now = time.monotonic()
            count = len(answer.delta.token_ids)
            if count:
                begun = begun or now
                gap, last = max(gap, now - last), now
                with self.lock:
                    self.tokens += [now] * count
            if self.stop.is_set():
                answers.cancel()
                gap = max(gap, time.monotonic() - last)
                break
        else:
            with self.lock:
                self.finished += 1
        with self.lock:
            self.longest_gap = max(self.longest_gap, gap)
            self.starved += gap > STARVED
            if begun:
                self.first.append(begun - asked)

    def speed(self, since: float, until: float) -> float:
        with self.lock:
            return sum(since <= at <= until for at in self.tokens) / (until - since)


def verdicts(classify, count: int, seed: int) -> list[float]:
    """Milliseconds from each one's arrival time to its verdict, sorted; arrivals are a Poisson process."""
    draw = random.Random(seed)
    load = conversations(count, seed)

    def one(pair, due: float) -> float:
        classify(judged(pair))
        return 1e3 * (time.monotonic() - due)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        due, done = time.monotonic(), []
        for pair in load:
            due += draw.expovariate(RATE)
            time.sleep(max(0.0, due - time.monotonic()))
            done.append(pool.submit(one, pair, due))
        return sorted(future.result() for future in done)


def quantile(values: list[float], share: float) -> float:
    return values[max(0, math.ceil(len(values) * share) - 1)]


def mixed(setup: Setup) -> dict[str, tuple[str, float]]:
    """Verdicts alone, then beside generations that saturate the machine."""
    with served(setup, {}) as client:
        classify, generate = methods(client)
        for pair in conversations(24, setup.seed + 77):
            classify(judged(pair))
        idle = verdicts(classify, IDLE, setup.seed)
        with Generations(generate, setup.streams, None, setup.seed + 1000) as streams:
            time.sleep(RAMP)
            began = time.monotonic()
            loaded = verdicts(classify, LOADED, setup.seed + 1)
            ended = time.monotonic()
            speed = streams.speed(began, ended)
        return {
            "classify_idle_p50": ("ms", round(quantile(idle, 0.5))),
            "classify_idle_p99": ("ms", round(quantile(idle, 0.99))),
            "classify_loaded_p50": ("ms", round(quantile(loaded, 0.5))),
            "classify_loaded_p99": ("ms", round(quantile(loaded, 0.99))),
            "p99_loaded_over_idle": ("", round(quantile(loaded, 0.99) / quantile(idle, 0.99), 2)),
            "generate_meanwhile": ("tokens/s", round(speed, 1)),
            "generations_finished": ("", streams.finished),
            "generations_starved": ("", streams.starved),
            "longest_gap_between_tokens": ("s", round(streams.longest_gap, 2)),
        }


def tenants(setup: Setup) -> dict[str, tuple[str, float]]:
    """One tenant keeps four times as many generations open as the other, and more than run at a time."""
    # Names that are not listed would share one account.
    settings = {
        "BABELWARD_ENGINE__MAX_BATCH_SEQUENCES": str(PLACES),
        "BABELWARD_ENGINE__TENANT_WEIGHTS": "flood=1,modest=1",
    }
    with served(setup, settings) as client:
        classify, generate = methods(client)
        for pair in conversations(24, setup.seed + 77):
            classify(judged(pair))
        flood = Generations(generate, FLOOD, "flood", setup.seed + 2000)
        modest = Generations(generate, MODEST, "modest", setup.seed + 3000)
        with flood:
            time.sleep(RAMP)
            with modest:
                time.sleep(RAMP)
                began = time.monotonic()
                time.sleep(TENANT_SECONDS)
                ended = time.monotonic()
                speeds = [side.speed(began, ended) for side in (flood, modest)]
        return {
            "flood_tokens": ("tokens/s", round(speeds[0], 1)),
            "modest_tokens": ("tokens/s", round(speeds[1], 1)),
            "modest_share": ("", round(speeds[1] / max(sum(speeds), 1e-9), 2)),
            "modest_first_token_p50": ("s", round(quantile(sorted(modest.first) or [0.0], 0.5), 2)),
            "modest_first_token_max": ("s", round(max(modest.first, default=0.0), 2)),
        }
