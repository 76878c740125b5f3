"""OpenVINO GenAI beside ours: the same file, the same counts, the same prompts, in one process of its own without a server.

Its pipeline has continuous batching and a prefix cache, as our server has. Nobody sends it requests over a connection, which
favours it. For each figure every setting of `openvino_side.SETTINGS` is tried once, and the fastest one is measured."""

import json
import pathlib
import statistics

from . import classify, engine
from .machine import CannotRun, Failed, Setup, progress, run

PREFIX = "openvino_"
SETTINGS = ("bf16", "bf16-unquantised", "f32")
PROGRAM = pathlib.Path(__file__).resolve().parent / "openvino_side.py"


def check(python: str) -> None:
    """That the interpreter has what is measured."""
    try:
        version = run([python, "-c", "import openvino_genai; print(openvino_genai.__version__)"]).strip()
    except (Failed, OSError) as reason:
        raise CannotRun(f"--openvino {python}: no interpreter with openvino-genai (pip install openvino-genai): {reason}")
    progress(f"OpenVINO GenAI {version}")


def side(setup: Setup, python: str, setting: str, counts: list, stdin: str = "") -> dict:
    """What one process of OpenVINO measures."""
    return json.loads(run([python, PROGRAM, setup.model, setup.threads, setting, *counts], stdin=stdin).splitlines()[-1])


def fastest(setup: Setup, python: str, counts: list, stdin: str = "") -> str:
    """The setting in which it does this work soonest."""

    def speed(setting: str) -> float:
        found = side(setup, python, setting, counts, stdin)
        return found["tok_s"] if "tok_s" in found else 1 / found["seconds"]

    speeds = {setting: speed(setting) for setting in SETTINGS}
    best = max(speeds, key=speeds.__getitem__)
    others = ", ".join(f"{speed / speeds[best]:.2f} of it in {name}" for name, speed in speeds.items() if name != best)
    progress(f"OpenVINO is fastest in {best}: {others}")
    return best


def why_not(setup: Setup, python: str) -> str | None:
    """Why OpenVINO does not read this model; None where it does."""
    try:
        side(setup, python, SETTINGS[0], ["prefill", 1])
    except Failed as reason:
        return str(reason).splitlines()[-1]
    return None


def speeds(setup: Setup, name: str, python: str, repetitions: int, quick: bool) -> tuple[list[float], list[float]]:
    """Alternating repetitions of prefill_N or decode_N: tokens/s of ours and of OpenVINO."""
    speed = engine.Speed.of(name)
    counts = ["prefill", speed.count] if speed.prefill else ["decode", engine.CONTEXT, engine.steps(quick), speed.count]
    setting = fastest(setup, python, counts)
    ours, peer = [], []
    for repetition in range(repetitions):
        ours.append(engine.our_speed(setup, speed, quick))
        peer.append(side(setup, python, setting, counts)["tok_s"])
        progress(f"{name} {repetition + 1}/{repetitions}: ours {ours[-1]:.1f}, OpenVINO {peer[-1]:.1f} tokens/s")
    return ours, peer


def verdicts(setup: Setup, python: str, repetitions: int, quick: bool) -> tuple[classify.Measured, classify.Measured]:
    """Alternating repetitions of the guard's work: ours by our server, theirs in its process."""
    count = classify.load_size(quick)
    counts = ["classify", classify.CALLERS, classify.KV_TOKENS]

    def as_prompts(conversations: dict[str, list[tuple[str, str]]]) -> str:
        return json.dumps({name: classify.prompts(setup, load) for name, load in conversations.items()})

    setting = fastest(setup, python, counts, as_prompts(classify.work(0, classify.CALLERS)))
    ours, peer = classify.Measured(), classify.Measured()
    for repetition in range(repetitions):
        conversations = classify.work(repetition, count)
        classify.measure_server(classify.Ours(setup), conversations, ours)
        theirs = side(setup, python, setting, counts, as_prompts(conversations))
        peer.speed.append(count / theirs["seconds"])
        peer.alone.append(1000 * theirs["alone"])
        peer.memory.append(theirs["memory"])
        peer.tokens.append(theirs["tokens"])
        progress(
            f"classify {repetition + 1}/{repetitions}: ours {ours.speed[-1]:.2f}, OpenVINO {peer.speed[-1]:.2f} conversations/s; "
            f"alone {ours.alone[-1]:.0f} and {peer.alone[-1]:.0f} ms; peak {ours.memory[-1]:.0f} and {peer.memory[-1]:.0f} MiB"
        )
        classify.check_same_work(statistics.mean(ours.tokens), statistics.mean(peer.tokens))
    return ours, peer
