"""What scheduling costs beside 8 to 10,000 requests that wait: seconds of scheduling for each second of steps, and for each
request that arrives.

The requests are calls of Generate with short answers. As many are sent as have started, so that the queue keeps its length
while it is measured; whoever sends reads no answers, for the client shares the processor with the server. The share that it
takes is a figure of its own."""

import dataclasses
import random
import time

from side_by_side_lib import machine

from . import server
from .curves import Curve, Panel, of

LEVELS = (8, 100, 1000, 10_000)
# Scheduling is to take less of a step's time than this, in percent.
LIMIT = 2.0
# Sequences that run at a time, at most.
PLACES = 64
# Tokens of a prompt, those of them that all prompts share, and of an answer.
PROMPT, SHARED, ANSWER = 64, 32, 16
KV_MEMORY = "512MiB"
# Requests that arrive at once, to see what an arrival costs.
BURST = 200
# Connections, and calls on each. A call that nobody reads counts as open in the client although the server has answered it, so
# that there has to be room for all calls of a measurement.
CONNECTIONS, CONNECTION_CALLS = 4, 65_536
# The name of these calls in metrics.
GENERATE = "babelward.v1.GenerationService/Generate"
# Steps of a measurement, however long they take.
LEAST_STEPS = 10
# Seconds between two looks at the server, of steps before a measurement, and that a queue may take to fill.
LOOK, SETTLE, PATIENCE = 0.1, 2.0, 300.0


@dataclasses.dataclass
class Depths:
    """Requests that wait, as they were seen."""

    seen: list[int] = dataclasses.field(default_factory=list)

    def line(self) -> dict:
        return {"waiting_least": min(self.seen), "waiting_most": max(self.seen)}


class Load:
    """Requests that are sent, and how many have ended."""

    def __init__(self, setup: machine.Setup, served: server.Served):
        self.served = served
        self.generate = server.Generate(setup, served.address, CONNECTIONS)
        self.vocabulary = server.vocabulary(setup.model)
        self.draw = random.Random(1)
        self.shared = self.tokens(SHARED)
        self.calls = []

    def tokens(self, count: int) -> list[int]:
        return [self.draw.randrange(self.vocabulary // 2, self.vocabulary) for _ in range(count)]

    def send(self, count: int) -> None:
        for _ in range(count):
            request = self.generate.encode(self.shared + self.tokens(PROMPT - SHARED), ANSWER)
            self.calls.append(self.generate.open(request))

    def open(self, metrics: server.Metrics) -> int:
        """Calls that have not ended."""
        return len(self.calls) - int(metrics.total(server.CALLS, method=GENERATE))

    def waiting(self, metrics: server.Metrics) -> int:
        """Calls that have not ended and do not run, those that the engine does not know of yet included."""
        return self.open(metrics) - int(metrics.total(server.RUNNING))

    def keep(self, waiting: int) -> server.Metrics:
        """Sends as many as are missing of a queue of this length."""
        metrics = self.served.metrics()
        self.send(max(0, waiting - self.waiting(metrics)))
        return metrics

    def all_taken(self, metrics: server.Metrics) -> bool:
        """Whether the engine knows of every call that has not ended."""
        known = metrics.total(server.QUEUED) + metrics.total(server.RUNNING)
        return known >= self.open(metrics)

    def wait_until_taken(self) -> server.Metrics:
        """The first reading at which the engine knows of all calls."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            metrics = self.served.metrics()
            if self.all_taken(metrics):
                return metrics
            time.sleep(LOOK / 5)
        self.check()
        raise machine.Failed(f"the engine had not taken all of {len(self.calls)} calls after {PATIENCE:.0f} s")

    def settle(self, waiting: int) -> None:
        """Waits until the queue has this length, and for some steps more."""
        begin = time.monotonic()
        while time.monotonic() - begin < PATIENCE:
            # Before more are sent, of which the engine cannot know yet.
            metrics = self.served.metrics()
            is_settled = time.monotonic() - begin >= SETTLE
            if is_settled and self.all_taken(metrics) and self.waiting(metrics) <= waiting:
                return
            self.keep(waiting)
            time.sleep(LOOK)
        self.check()
        raise machine.Failed(f"the queue had not come to {waiting} requests after {PATIENCE:.0f} s")

    def check(self) -> None:
        """Fails with the first call that was refused. Those that are answered have not ended here, for nobody reads them."""
        for call in self.calls:
            if call.done() and call.code().value[0] != 0:
                raise machine.Failed(f"a call ended with {call.code().name}: {call.details()}")


def window(load: Load, waiting: int, seconds: float) -> dict:
    """The figures of so many seconds with a queue of this length."""
    depths = Depths()
    begin, processor = time.monotonic(), time.process_time()
    before = after = load.keep(waiting)
    limit = begin + seconds + PATIENCE
    while time.monotonic() < begin + seconds or after.total(server.STEPS) - before.total(server.STEPS) < LEAST_STEPS:
        if time.monotonic() > limit:
            raise machine.Failed(f"{LEAST_STEPS} steps took more than {seconds + PATIENCE:.0f} s")
        time.sleep(LOOK)
        after = load.keep(waiting)
        depths.seen.append(int(after.total(server.QUEUED)))
    wall, processor = time.monotonic() - begin, time.process_time() - processor
    load.check()

    def passed(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    steps, step_seconds, scheduling = passed(server.STEPS), passed(server.STEP_SECONDS), after.scheduling(before)
    return {
        **depths.line(),
        "seconds": round(wall, 1),
        "steps": int(steps),
        "step_ms": round(1e3 * step_seconds / steps, 2),
        "in_steps_percent": round(100 * step_seconds / wall, 1),
        "scheduling_us": None if scheduling is None else round(1e6 * scheduling / steps, 1),
        "scheduling_percent": None if scheduling is None else round(100 * scheduling / step_seconds, 3),
        "ended": int(passed(server.CALLS, method=GENERATE)),
        "client_cores": round(processor / wall, 3),
    }


def burst(load: Load) -> dict:
    """What an arrival costs when many come at once: seconds of scheduling of the steps at which they were taken, of which the
    planning is a part, and seconds until all were taken."""
    before, begin = load.wait_until_taken(), time.monotonic()
    load.send(BURST)
    sent = time.monotonic() - begin
    after = load.wait_until_taken()
    taken, scheduling = time.monotonic() - begin, after.scheduling(before)
    return {
        "arrival_scheduling_us": None if scheduling is None else round(1e6 * scheduling / BURST, 1),
        "arrival_sent_us": round(1e6 * sent / BURST, 1),
        "arrival_taken_us": round(1e6 * taken / BURST, 1),
    }


def measure(setup: machine.Setup, seconds: float, emit, levels: tuple[int, ...] = LEVELS) -> None:
    """Emits a line for each length of the queue."""
    most = 2 * max(levels) + PLACES + BURST
    settings = {
        "ENGINE__QUEUE_ITEMS": str(most),
        "ENGINE__QUEUE_TOKENS": str(most * PROMPT),
        "ENGINE__MAX_BATCH_SEQUENCES": str(PLACES),
        "ENGINE__KV_MEMORY": KV_MEMORY,
        "LIMITS__CALLS": str(most),
        "LIMITS__CONNECTION_STREAMS": str(CONNECTION_CALLS),
        "DEADLINES__GENERATE": "1h",
        # A line for each call is no part of scheduling.
        "TELEMETRY__ACCESS_LOG": "false",
    }
    with server.served(setup, settings) as served:
        load = Load(setup, served)
        try:
            for level in levels:
                # So that it stays as long as it is to be while some of it ends between two looks.
                waiting = level + level // 100
                load.settle(waiting)
                figures = window(load, waiting, seconds)
                emit({"plot": "queued", "queued": level, **figures, **burst(load)})
        finally:
            load.generate.close()


def panels(lines: list[dict]) -> list[Panel]:
    """Scheduling as a share of the steps, and of an arrival, against the length of the queue."""
    def curves(title: str, figure: str) -> list[Curve]:
        points = of(lines, "queued", figure)
        return [Curve(title, points, 0)] if points else []

    share = curves("share of the steps", "scheduling_percent")
    arrival = curves(f"of {BURST} at once", "arrival_scheduling_us")
    return [
        Panel("requests that wait", "scheduling, % of a step", share, LEVELS, from_zero=True, limit=LIMIT),
        Panel("requests that wait", "scheduling of an arrival, µs", arrival, LEVELS, from_zero=True),
    ]
