"""Soak: every kind of work for minutes, with calls that are left, connections that break and a model that comes and goes,
and how much memory the server has resident meanwhile."""

import contextlib
import pathlib
import random
import re
import shutil
import socket
import struct
import tempfile
import threading
import time

from side_by_side_lib import machine
from side_by_side_lib.classify import GUARD_KIND, conversations

from .load import Setup, judged

# Callers of each kind.
CALLERS = {"classify": 4, "generate": 3, "score": 2, "leave": 3, "break": 2}
# Seconds for which the model that comes and goes is there, and is not; and seconds between two samples of memory.
THERE, AWAY, SAMPLE = 3.0, 6.0, 0.5
# Seconds after it has gone from which on samples count.
SETTLED = 1.0
# The beginning of the measurement, as a share of all cycles, is left out: pools of memory still fill.
WARM_UP = 0.25
# Memory that grows by less than so many MiB in an hour takes a month to fill a gigabyte.
NEGLIGIBLE = 1.5
RESAMPLES = 2000

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def resident_mib(pid: int) -> float:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE).group(1)) / 1024


class Load:
    """Callers that work until the load is left."""

    def __init__(self, client, address: str, seed: int):
        self.client, self.seed = client, seed
        host, port = address.rsplit(":", 1)
        self.address = (host, int(port))
        self.stop = threading.Event()
        self.lock = threading.Lock()
        # How often the other model has gone, and since when it is away.
        self.cycles = 0
        self.away_since: float | None = None
        self.counts: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.threads = []
        for kind, number in CALLERS.items():
            for index in range(number):
                arguments = (kind, random.Random(f"{seed} {kind} {index}"))
                self.threads.append(threading.Thread(target=self.run, args=arguments, daemon=True))
        self.threads.append(threading.Thread(target=self.run, args=("load", random.Random(seed)), daemon=True))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def run(self, kind: str, draw: random.Random) -> None:
        import grpc

        work = getattr(self, f"one_{kind}")
        while not self.stop.is_set():
            outcome = "OK"
            try:
                work(draw)
            except grpc.RpcError as error:
                outcome = error.code().name
            except OSError as error:
                outcome = type(error).__name__
            with self.lock:
                self.counts[kind] = self.counts.get(kind, 0) + 1
                if outcome != "OK":
                    self.errors[f"{kind}: {outcome}"] = self.errors.get(f"{kind}: {outcome}", 0) + 1

    def texts(self, draw: random.Random) -> tuple[str, str]:
        return conversations(1, draw.randrange(1 << 30))[0]

    def generation(self, draw: random.Random, tokens: int) -> dict:
        return {
            "model": draw.choice(["m", "m", "m", "other"]) if draw.random() < 0.2 else "m",
            "conversation": {"messages": [{"role": "ROLE_USER", "content": " ".join(self.texts(draw))}]},
            "sampling": {"temperature": 1, "seed": draw.randrange(1 << 30)},
            "stopping": {"maxNewTokens": tokens},
        }

    def one_classify(self, draw: random.Random) -> None:
        self.client.call("SafetyService/Classify", judged(self.texts(draw)))

    def one_generate(self, draw: random.Random) -> None:
        for _ in self.client.call("GenerationService/Generate", self.generation(draw, draw.randrange(1, 60))):
            pass

    def one_score(self, draw: random.Random) -> None:
        request = {"generate": self.generation(draw, draw.randrange(1, 30)), "judge": {"model": "m"}}
        self.client.call("ScoringService/Score", request)

    def one_leave(self, draw: random.Random) -> None:
        """A stream that is cancelled after some of it, or a call whose time is short."""
        if draw.random() < 0.5:
            with contextlib.suppress(Exception):
                self.client.call("SafetyService/Classify", judged(self.texts(draw)), timeout=draw.uniform(0.001, 0.2))
            return
        answers = self.client.call("GenerationService/Generate", self.generation(draw, 200))
        for number, _ in enumerate(answers):
            if number >= draw.randrange(1, 8):
                answers.cancel()
                return

    def one_break(self, draw: random.Random) -> None:
        """A connection that says something wrong, or nothing, or half of something, and is reset or closed."""
        with socket.create_connection(self.address, timeout=5) as stream:
            said = draw.choice([b"", b"GET / HTTP/1.1\r\n\r\n", PREFACE[:11], PREFACE + draw.randbytes(40)])
            with contextlib.suppress(OSError):
                stream.sendall(said)
                self.stop.wait(draw.uniform(0.0, 0.3))
            if draw.random() < 0.5:
                # Closing sends a reset.
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def one_load(self, _draw: random.Random) -> None:
        """A second model that is loaded and unloaded."""
        self.away_since = None
        self.client.call("AdminService/LoadModel", {"name": "other"})
        self.stop.wait(THERE)
        self.client.call("AdminService/UnloadModel", {"name": "other", "drainTimeout": "2s"})
        self.cycles += 1
        self.away_since = time.monotonic()
        self.stop.wait(AWAY)

    def settled(self) -> bool:
        """Whether the other model is away, and has been for a moment."""
        since = self.away_since
        return since is not None and time.monotonic() - since >= SETTLED


def until_ready(client) -> None:
    """Waits until the server has loaded its models."""
    import grpc

    while True:
        try:
            client.call("SafetyService/Classify", judged(conversations(1, 1)[0]))
            return
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise machine.Failed(f"the server refuses the first call: {error.details()}") from error
            time.sleep(0.2)


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line with the least squares."""
    middle = [sum(values) / len(points) for values in zip(*points)]
    above = sum((x - middle[0]) * (y - middle[1]) for x, y in points)
    below = sum((x - middle[0]) ** 2 for x, _ in points)
    return above / below


def interval(points: list[tuple[float, float]], seed: int) -> tuple[float, float, float]:
    """The slope, and a 95 % interval by resampling the residuals in blocks of neighbours, which resemble each other."""
    draw = random.Random(seed)
    found = slope(points)
    middle = [sum(values) / len(points) for values in zip(*points)]
    fitted = [middle[1] + found * (x - middle[0]) for x, _ in points]
    left = [y - line for (_, y), line in zip(points, fitted)]
    block = max(2, round(len(points) ** 0.5))
    slopes = []
    for _ in range(RESAMPLES):
        residuals: list[float] = []
        while len(residuals) < len(points):
            start = draw.randrange(len(points) - block + 1)
            residuals += left[start : start + block]
        again = [(x, line + residual) for (x, _), line, residual in zip(points, fitted, residuals)]
        slopes.append(slope(again))
    slopes.sort()
    return found, slopes[int(0.025 * RESAMPLES)], slopes[int(0.975 * RESAMPLES) - 1]


def soak(setup: Setup, minutes: float) -> dict[str, tuple[str, float | str]]:
    """Mixed load for so many minutes, and whether the resident memory grows."""
    client_class = machine.client_class(setup.root, machine.target_folder(setup.root))
    settings = {
        "BABELWARD_MODELS__M__ROLES": "target,guard",
        "BABELWARD_MODELS__M__PINNED": "true",
        "BABELWARD_MODELS__OTHER__LOAD": "manual",
        "BABELWARD_SERVER__ALLOW_ADMIN": "true",
    }
    most, points = 0.0, {}
    with contextlib.ExitStack() as stack:
        # Ids of one file would share one model.
        copy = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / setup.model.name
        shutil.copyfile(setup.model, copy)
        arguments = ["--model", f"m={setup.model}", "--model", f"other={copy}", "--guard", "m"]
        arguments += [*GUARD_KIND, "--kv-memory", "256MiB"]
        served = machine.our_server(setup.program, arguments, setup.threads, settings)
        address, process = stack.enter_context(served)
        client = client_class(address)
        until_ready(client)
        with Load(client, address, setup.seed) as load:
            began = time.monotonic()
            shown = began
            while time.monotonic() - began < 60 * minutes:
                time.sleep(SAMPLE)
                if process.poll() is not None:
                    raise machine.Failed(f"the server ended with {process.returncode}")
                now = time.monotonic()
                resident = resident_mib(process.pid)
                most = max(most, resident)
                # The least of each cycle counts: peaks are calls that happen to be open.
                if load.settled():
                    at, least = points.get(load.cycles, ((now - began) / 3600, resident))
                    points[load.cycles] = (at, min(least, resident))
                if now - shown >= 30:
                    shown = now
                    machine.progress(f"{now - began:5.0f} s  {resident:7.1f} MiB  {sum(load.counts.values())} calls")
    machine.progress(f"calls: {load.counts}")
    machine.progress(f"errors: {load.errors}")
    points = [points[cycle] for cycle in sorted(points)]
    points = points[int(WARM_UP * len(points)) :]
    if len(points) < 12:
        raise machine.Failed(f"{len(points)} cycles are too few for a slope: give --minutes 4 or more")
    found, least, steepest = interval(points, setup.seed)
    grows = least > NEGLIGIBLE and found * minutes / 60 > 1
    return {
        "calls": ("", sum(load.counts.values())),
        "calls_with_an_error": ("", sum(load.errors.values())),
        "resident_first": ("MiB", round(points[0][1], 1)),
        "resident_last": ("MiB", round(points[-1][1], 1)),
        "resident_most": ("MiB", round(most, 1)),
        "slope": ("MiB/h", round(found, 1)),
        "slope_least": ("MiB/h", round(least, 1)),
        "slope_most": ("MiB/h", round(steepest, 1)),
        "verdict": ("", "growing" if grows else "flat"),
    }
