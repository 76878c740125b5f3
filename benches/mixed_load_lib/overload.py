"""Overload: arrivals that do not wait for answers, at a multiple of what the server can do, each with a deadline."""

import collections
import random
import threading
import time

from side_by_side_lib import machine
from side_by_side_lib.classify import conversations

from .load import Setup, judged, quantile, served

# Callers of the measurement of capacity, each with one request in flight, and how long they ask, in seconds.
CALLERS, CLOSED = 16, 20.0
# Health checks per second, and how long one may take, in seconds.
CHECKS, CHECK_LIMIT = 4, 1.0

# Reasons with which a request is refused before anything is computed for it.
REFUSED = {"DEADLINE_UNATTAINABLE", "QUEUE_FULL", "TOO_MANY_CALLS", "REQUEST_MEMORY"}


class Calls:
    """Classify calls that do not block their caller, and what came of them."""

    def __init__(self, client):
        from google.protobuf import json_format, message_factory

        method = client.pool.FindServiceByName("babelward.v1.SafetyService").FindMethodByName("Classify")
        inputs = message_factory.GetMessageClass(method.input_type)
        outputs = message_factory.GetMessageClass(method.output_type)
        self.build = lambda fields: json_format.ParseDict(fields, inputs(), descriptor_pool=client.pool)
        self.call = client.channel.unary_unary(
            "/babelward.v1.SafetyService/Classify",
            request_serializer=inputs.SerializeToString,
            response_deserializer=outputs.FromString,
        )
        self.lock = threading.Lock()
        self.outcomes: list[tuple[str, float]] = []
        self.ended = threading.Semaphore(0)

    def send(self, message, limit: float) -> None:
        """Sends a request now. Its outcome is recorded when it has one."""
        sent = time.monotonic()
        future = self.call.future(message, timeout=limit)
        future.add_done_callback(lambda done: self.record(done, time.monotonic() - sent))

    def record(self, done, seconds: float) -> None:
        from reflect import status_of

        outcome = "OK"
        if done.code().value[0] != 0:
            try:
                outcome = reason_of(status_of(done)) or done.code().name
            except AssertionError:
                # The client's own timer, without anything from the server.
                outcome = f"client:{done.code().name}"
        with self.lock:
            self.outcomes.append((outcome, seconds))
        self.ended.release()


def reason_of(status) -> str:
    from google.rpc import error_details_pb2

    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def capacity(client, seed: int) -> float:
    """Verdicts per second of callers that each wait for their answer before they ask again."""
    calls, load = Calls(client), iter(conversations(20_000, seed))
    stop, lock, done = threading.Event(), threading.Lock(), []

    def ask() -> None:
        while not stop.is_set():
            with lock:
                pair = next(load)
            calls.call(calls.build(judged(pair)), timeout=120)
            done.append(time.monotonic())

    callers = [threading.Thread(target=ask, daemon=True) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    time.sleep(3)
    began = time.monotonic()
    time.sleep(CLOSED)
    ended = time.monotonic()
    stop.set()
    for caller in callers:
        caller.join()
    return sum(began <= at <= ended for at in done) / (ended - began)


class Checks:
    """Asks for the server's health all the time, until it is left."""

    def __init__(self, client):
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        self.stub = health_pb2_grpc.HealthStub(client.channel)
        self.request = health_pb2.HealthCheckRequest(service="babelward.v1.SafetyService")
        self.serving = health_pb2.HealthCheckResponse.SERVING
        self.stop = threading.Event()
        self.times: list[float] = []
        self.failed = 0
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def run(self) -> None:
        import grpc

        while not self.stop.wait(1 / CHECKS):
            began = time.monotonic()
            try:
                answer = self.stub.Check(self.request, timeout=CHECK_LIMIT)
                self.failed += answer.status != self.serving
            except grpc.RpcError:
                self.failed += 1
            self.times.append(1e3 * (time.monotonic() - began))


def overload(setup: Setup, times: float, limit: float, seconds: float) -> dict[str, tuple[str, float]]:
    """Capacity by callers that wait, then a Poisson process of arrivals at `times` that rate, each with `limit` seconds."""
    draw = random.Random(setup.seed)
    with served(setup, {}) as client:
        able = capacity(client, setup.seed)
        machine.progress(f"capacity {able:.1f} verdicts/s; now {times * able:.1f}/s arrive for {seconds:.0f} s")
        calls = Calls(client)
        count = int(2 * times * able * seconds) + 10
        messages = [calls.build(judged(pair)) for pair in conversations(count, setup.seed + 1)]
        sent, lag = 0, 0.0
        with Checks(client) as checks:
            due = began = time.monotonic()
            while due - began < seconds:
                due += draw.expovariate(times * able)
                time.sleep(max(0.0, due - time.monotonic()))
                lag = max(lag, time.monotonic() - due)
                calls.send(messages[sent], limit)
                sent += 1
            for _ in range(sent):
                calls.ended.acquire()
        outcomes = calls.outcomes
    by_reason = collections.Counter(outcome for outcome, _ in outcomes)
    refused = sorted(1e3 * took for outcome, took in outcomes if outcome in REFUSED)
    answered = sorted(1e3 * took for outcome, took in outcomes if outcome == "OK")
    accepted = len(outcomes) - len(refused)
    in_time = sum(took <= 1e3 * limit for took in answered)
    machine.progress(f"outcomes: {dict(by_reason)}")
    return {
        "capacity": ("verdicts/s", round(able, 1)),
        "offered": ("calls/s", round(sent / seconds, 1)),
        "answered": ("verdicts/s", round(len(answered) / seconds, 1)),
        "accepted": ("", accepted),
        "accepted_in_time": ("%", round(100 * in_time / max(accepted, 1), 2)),
        "refused": ("", len(refused)),
        "refusal_p50": ("ms", round(quantile(refused, 0.5), 1) if refused else 0.0),
        "refusal_p99": ("ms", round(quantile(refused, 0.99), 1) if refused else 0.0),
        "answer_p99": ("ms", round(quantile(answered, 0.99)) if answered else 0.0),
        "health_checks": ("", len(checks.times)),
        "health_checks_failed": ("", checks.failed),
        "health_check_p99": ("ms", round(quantile(sorted(checks.times), 0.99), 1)),
        "late_arrivals": ("ms", round(1e3 * lag, 1)),
    }
