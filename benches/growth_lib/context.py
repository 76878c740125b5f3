"""What a token costs behind a context of so many tokens, with 1, 8 and 32 sequences at a time: the engine alone.

Two runs of `engine-bench` give a point. In the one, the sequences share the context, which is computed once, as a
guard's policy is; each has 64 tokens of its own behind it, whose computation is the prefill that is measured. In the
other, each sequence has a context of its own, and decodes behind it. Decode with the shared context is measured, too: it
needs little memory, but its keys and values are read by all sequences from the same place, which caches may hold."""

import dataclasses
import json
import statistics

from side_by_side_lib import machine

from .curves import Curve, Panel, of

# In SmolLM2's shape, whose file has a window of 8192 tokens.
MODEL = "dummy:smollm2-135m:q4_1:32768"
CONTEXTS = tuple(1 << power for power in range(7, 15))
SEQUENCES = (1, 8, 32)
# New tokens of each sequence behind the context, and tokens that each decodes.
NEW, DECODED = 64, 32
# Tokens of a step at most, as of a server.
STEP_TOKENS = 512
BLOCK_TOKENS = 16
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What points a machine is asked for."""

    # Of the model, in tokens.
    window: int
    kv_bytes_per_token: float
    # For keys and values, in bytes.
    budget: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of engine-bench with so many sequences behind a context, which they share or not."""

    context: int
    sequences: int
    shared: bool

    def prompt(self) -> int:
        return self.context + NEW if self.shared else self.context

    def kv_tokens(self) -> int:
        """Tokens of the blocks that it holds at its end."""
        own = self.prompt() + DECODED - (self.context if self.shared else 0)
        own = -(-own // BLOCK_TOKENS) * BLOCK_TOKENS
        return self.sequences * own + (self.context if self.shared else 0)

    def why_skipped(self, limits: Limits) -> str | None:
        """Why it is not measured; None if it can be."""
        if self.prompt() + DECODED > limits.window:
            return f"the window of the model has {limits.window} tokens"
        needed = self.kv_tokens() * limits.kv_bytes_per_token
        if needed > limits.budget:
            return f"keys and values take {needed / MIB:.0f} MiB, and --kv-budget is {limits.budget // MIB} MiB"
        return None

    def arguments(self) -> list[int | str]:
        shared = ["--shared-tokens", self.context] if self.shared else []
        return ["--prompt-tokens", self.prompt(), *shared, "--sequences", self.sequences]


def engine_bench(setup: machine.Setup, model: str, run: Run) -> dict:
    """What engine-bench prints of a run."""
    command = [setup.ours, "engine-bench", "--model", model, "--threads", setup.threads, "--precision", setup.precision]
    command += [*run.arguments(), "--decode-tokens", DECODED, "--max-batch-tokens", STEP_TOKENS]
    return json.loads(machine.run(command))


def limits(setup: machine.Setup, model: str, budget: int) -> Limits:
    """By the smallest run, which says what the model is like."""
    run = Run(CONTEXTS[0], 1, shared=False)
    found = engine_bench(setup, model, run)
    return Limits(found["window"], found["kv_bytes"] / run.kv_tokens(), budget)


def microseconds(speeds: list[float]) -> dict[str, float]:
    """Median, least and most of the time of a token, from tokens/s."""
    times = [1e6 / speed for speed in speeds]
    return {
        "us_per_token": round(statistics.median(times), 1),
        "least_us": round(min(times), 1),
        "most_us": round(max(times), 1),
    }


def measure(setup: machine.Setup, model: str, budget: int, repetitions: int, emit) -> None:
    """Emits a line for each phase of each point, and one for each run that is skipped."""
    allowed = limits(setup, model, budget)
    for context in CONTEXTS:
        for sequences in SEQUENCES:
            for shared in (True, False):
                run = Run(context, sequences, shared)
                point = {"plot": "context", **dataclasses.asdict(run)}
                reason = run.why_skipped(allowed)
                if reason is not None:
                    emit({**point, "skipped": reason})
                    continue
                found = [engine_bench(setup, model, run) for _ in range(repetitions)]
                if shared:
                    prefill = microseconds([one["prefill_tok_s"] for one in found])
                    emit({**point, "phase": "prefill", **prefill})
                decode = microseconds([one["decode_tok_s"] for one in found])
                emit({**point, "phase": "decode", **decode})
        machine.progress(f"context of {context} tokens: measured")


def panels(lines: list[dict]) -> list[Panel]:
    """Microseconds of a token against the context: prefill, decode."""

    def curves(phase: str, shared: bool, title: str, dashed: bool = False) -> list[Curve]:
        found = []
        for colour, sequences in enumerate(SEQUENCES):
            same = {"phase": phase, "shared": shared, "sequences": sequences}
            points = of(lines, "context", "us_per_token", **same)
            name = title.format(sequences, "s" if sequences > 1 else "")
            found += [Curve(name, points, colour, dashed)] if points else []
        return found

    prefill = curves("prefill", True, "{} sequence{}")
    decode = curves("decode", False, "{} with own context{}")
    # A single sequence shares with nobody.
    decode += curves("decode", True, "{} with the same context", dashed=True)[1:]
    return [
        Panel("tokens of context", f"prefill of {NEW} tokens, µs/token", prefill, CONTEXTS),
        Panel("tokens of context", "decode, µs/token of all sequences", decode, CONTEXTS),
    ]
