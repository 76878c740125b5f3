"""What a request costs beside 1, 100 and 10,000 cached prefixes: one that finds its prefix in the cache, and one for which
others are evicted.

The model is tiny, so that a search through all prefixes would show. Each prefix is four KV blocks of random tokens, and each
request has a few tokens behind one, of which no block becomes full: a hit puts nothing into the cache. The servers with few
and with many prefixes are asked in turns, one request at a time."""

import contextlib
import dataclasses
import pathlib
import random
import statistics
import tempfile
import time

from gpu_lib import guard_folder
from gpu_lib.shapes import Shape
from side_by_side_lib import machine

from . import server
from .curves import Curve, Panel

NUMBERS = (1, 100, 10_000)
# As small as a model with the vocabulary of guard_folder.py can be.
SHAPE = Shape(2, 64, 128, 4, 2, 16, 2048, True)
BLOCK_TOKENS = 16
# Tokens of a prefix, and those that a request has behind it. Together they take five blocks, of which four can be found again.
PREFIX, OWN = 64, 8
PREFIX_BLOCKS, REQUEST_BLOCKS = 4, 5
# Requests that are open at a time while the cache is filled.
OPEN = 16
# Turns in which the requests are divided between the servers.
ROUNDS = 5
# The smallest cache that a server can have.
LEAST_BYTES = 1 << 20


class Cache:
    """A server, its cached prefixes, and the times of its requests."""

    def __init__(self, setup: machine.Setup, served: server.Served, prefixes: int):
        self.served = served
        self.generate = server.Generate(setup, served.address)
        self.draw = random.Random(prefixes)
        self.prefixes = [self.tokens(PREFIX) for _ in range(prefixes)]
        # By kind of request: seconds of each, and seconds of scheduling for all of them.
        self.seconds: dict[str, list[float]] = {"hit": [], "evict": []}
        self.scheduling: dict[str, list[float | None]] = {"hit": [], "evict": []}

    def tokens(self, count: int) -> list[int]:
        return [self.draw.randrange(SHAPE.vocabulary // 2, SHAPE.vocabulary) for _ in range(count)]

    def request(self, prefix: list[int]) -> bytes:
        return self.generate.encode(prefix + self.tokens(OWN), new_tokens=1)

    def send(self, prefixes: list[list[int]]) -> None:
        """Requests with these prefixes, as many at a time as are open."""
        calls = []
        for prefix in prefixes:
            if len(calls) == OPEN:
                list(calls.pop(0))
            calls.append(self.generate.open(self.request(prefix)))
        for call in calls:
            list(call)

    def capacity(self) -> int:
        """Prefixes that the cache holds beside a request."""
        blocks = int(self.served.metrics().total(server.KV_BLOCKS))
        return (blocks - REQUEST_BLOCKS) // PREFIX_BLOCKS

    def fill_up(self) -> None:
        """New prefixes, until every block of the cache has something that can be found."""
        self.send([self.tokens(PREFIX) for _ in range(self.capacity() + OPEN)])

    def ask(self, kind: str, count: int) -> None:
        """Requests that are hits or evict others, one after the other."""
        hit = kind == "hit"
        prefixes = [self.draw.choice(self.prefixes) if hit else self.tokens(PREFIX) for _ in range(count)]
        requests = [self.request(prefix) for prefix in prefixes]
        before = self.served.metrics()
        for request in requests:
            begin = time.perf_counter()
            answers = list(self.generate.open(request))
            self.seconds[kind].append(time.perf_counter() - begin)
            cached = self.generate.cached_tokens(answers)
            if cached != (PREFIX if hit else 0):
                raise machine.Failed(f"{cached} tokens of a prompt were cached, where it was to be a request of kind {kind}")
        self.scheduling[kind].append(self.served.metrics().scheduling(before))

    def line(self, kind: str) -> dict:
        """The figures of one kind of request."""
        times = sorted(1e6 * seconds for seconds in self.seconds[kind])
        quarters = statistics.quantiles(times, n=4)
        scheduling = None
        if None not in self.scheduling[kind]:
            scheduling = round(1e6 * sum(self.scheduling[kind]) / len(times), 1)
        return {
            "plot": "prefixes",
            "request": kind,
            "prefixes": len(self.prefixes) if kind == "hit" else self.capacity(),
            "requests": len(times),
            "median_us": round(statistics.median(times), 1),
            "quarter_us": round(quarters[0], 1),
            "three_quarters_us": round(quarters[2], 1),
            "scheduling_us": scheduling,
        }


@contextlib.contextmanager
def cache(setup: machine.Setup, prefixes: int):
    """A server with room for so many prefixes, and for the requests that fill it."""
    blocks = prefixes * PREFIX_BLOCKS + OPEN * REQUEST_BLOCKS
    size = max(LEAST_BYTES, blocks * SHAPE.kv_bytes(BLOCK_TOKENS))
    with server.served(setup, {"ENGINE__KV_MEMORY": str(size)}) as served:
        found = Cache(setup, served, prefixes)
        try:
            found.send(found.prefixes)
            yield found
        finally:
            found.generate.close()


def measure(setup: machine.Setup, requests: int, emit, numbers: tuple[int, ...] = NUMBERS) -> None:
    """Emits a line for each number of prefixes and each kind of request."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        guard_folder.write(folder, SHAPE)
        # Of the size of a block, which depends on the precision, follows how many prefixes a cache holds.
        setup = dataclasses.replace(setup, model=folder, precision="int8")
        caches = [stack.enter_context(cache(setup, number)) for number in numbers]
        for kind in ("hit", "evict"):
            if kind == "evict":
                for one in caches:
                    one.fill_up()
            for _ in range(ROUNDS):
                for one in caches:
                    one.ask(kind, requests // ROUNDS)
            for one in caches:
                emit(one.line(kind))


def panels(lines: list[dict]) -> list[Panel]:
    """Microseconds of a request, and of its scheduling, against the prefixes in the cache."""
    titles = {"hit": "a prefix is found", "evict": "others are evicted"}

    def curves(*keys: str) -> list[Curve]:
        found = []
        for colour, (kind, title) in enumerate(titles.items()):
            points = [line for line in lines if line["request"] == kind and line[keys[0]] is not None]
            points = sorted((line["prefixes"], *(line[key] for key in keys)) for line in points)
            found += [Curve(title, points, colour)] if points else []
        return found

    whole = curves("median_us", "quarter_us", "three_quarters_us")
    scheduling = curves("scheduling_us")
    return [
        Panel("cached prefixes", "a request, µs (median, quartiles)", whole, NUMBERS, from_zero=True),
        Panel("cached prefixes", "its scheduling, µs", scheduling, NUMBERS, from_zero=True),
    ]
