"""Throughput of a server with more streams and with longer prompts."""

import contextlib
import dataclasses
import random

from side_by_side_lib import classify, machine

from . import server
from .curves import Curve, Panel, of

STREAMS = (1, 2, 4, 8, 16, 32, 64)
PROMPTS = (128, 256, 512, 1024, 2048, 4096)
# While the other one grows.
FIXED_STREAMS, FIXED_PROMPT = 8, 512
OWN_TOKENS, ANSWER_TOKENS = 64, 32
KV_TOKENS = 1 << 16
# Prompt tokens of a point, so that long prompts take no longer than short ones.
POINT_TOKENS = 1 << 13
KINDS = {"prefix shared": True, "nothing shared": False}


@dataclasses.dataclass(frozen=True)
class Point:
    """One load."""

    streams: int
    prompt: int
    shared: bool

    def requests(self, vocabulary: int) -> list[dict]:
        """Whole rounds of all streams; no two prompts are alike, and none is another point's."""
        draw = random.Random(repr(self))

        def tokens(count: int) -> list[int]:
            return [draw.randrange(vocabulary // 2, vocabulary) for _ in range(count)]

        prefix = tokens(self.prompt - OWN_TOKENS) if self.shared else []
        count = self.streams * max(1, POINT_TOKENS // (self.prompt * self.streams))
        stopping, sampling = {"max_new_tokens": ANSWER_TOKENS}, {"temperature": 0}
        return [
            {
                "token_ids": {"ids": prefix + tokens(self.prompt - len(prefix))},
                "stopping": stopping,
                "sampling": sampling,
            }
            # One more, which goes first and fills the cache.
            for _ in range(count + 1)
        ]


def points(plot: str) -> list[Point]:
    """Of the plot `streams` or `prompt`."""
    if plot == "streams":
        return [Point(streams, FIXED_PROMPT, shared) for shared in KINDS.values() for streams in STREAMS]
    return [Point(FIXED_STREAMS, prompt, shared) for shared in KINDS.values() for prompt in PROMPTS]


def requests_per_second(point: Point, client, vocabulary: int) -> float:
    @contextlib.contextmanager
    def ask():
        def send(request: dict) -> int:
            events = client.call("GenerationService/Generate", request)
            return sum(len(event.delta.token_ids) for event in events)

        yield send

    first, *requests = point.requests(vocabulary)
    with ask() as send:
        send(first)
    seconds, _tokens = classify.drive(ask, requests, point.streams)
    return len(requests) / seconds


def measure(setup: machine.Setup, plot: str, emit) -> None:
    """Emits a line for each point of the plot."""
    vocabulary = server.vocabulary(setup.model)
    with classify.serve(setup, "--model", KV_TOKENS) as (address, _process):
        client = server.client_class(setup)(address)
        for point in points(plot):
            speed = requests_per_second(point, client, vocabulary)
            emit({"plot": plot, **dataclasses.asdict(point), "requests_s": round(speed, 3)})


def panels(plot: str, lines: list[dict]) -> list[Panel]:
    """Requests/s against what grows."""
    label = {
        "streams": f"concurrent streams, prompts of {FIXED_PROMPT} tokens",
        "prompt": f"tokens of a prompt, {FIXED_STREAMS} concurrent streams",
    }[plot]
    curves = [
        Curve(title, points, colour)
        for colour, (title, shared) in enumerate(KINDS.items())
        if (points := of(lines, plot, "requests_s", shared=shared))
    ]
    return [Panel(label, "requests/s", curves, STREAMS if plot == "streams" else PROMPTS)]
