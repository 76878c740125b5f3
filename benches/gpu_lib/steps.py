"""The steps of the benchmark. Each runs programs with a time limit and emits what they measured."""

import json
import os
import pathlib
import sys
import time

from . import peers, profile, serving
from .card import CannotRun
from .programs import Failed, Skipped, run
from .shapes import BLOCK_TOKENS, GUARD, SHAPES, Shape

# Seconds that each step may take.
LIMITS = {
    "libraries": 20,
    "self_tests": 50,
    "sanitizer": 60,
    "ceilings": 40,
    "row_bits": 30,
    "engine": 150,
    "server": 100,
    "profile": 40,
    "peers": 300,
}
STEPS = tuple(LIMITS)
# What is to be reached on the card that the goals were set for (one H200).
PREFILL_SHARE, DECODE_SHARE, CLASSIFICATIONS = 0.60, 0.70, 250.0
# The server may cost 5 % of what the engine does by itself.
SERVED_SHARE = 0.95
# Up to so many sequences, decoding is bound by reading the weights.
MOST_BOUND_SEQUENCES = 64
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PREFILL_TOKENS, PREFILL_SEQUENCES = 512, 8
CONTEXT, DECODED = 350, 32
# A conversation to classify, and what it shares with the others: the policy. Caches have whole blocks of it.
CONVERSATION, POLICY, CONVERSATIONS = 350, 220, 64
SHARED = POLICY // BLOCK_TOKENS * BLOCK_TOKENS
# Conversations that are classified through the server.
SERVED_CONVERSATIONS = 4000
# Tokens of a step, but for prefill, which is measured in one.
STEP_TOKENS = 8192
# Memory that is left for what a model needs beside weights and the KV cache, at the most.
SCRATCH_BYTES = 5 << 30
# The rows of the products that prefill is compared with.
CEILING_ROWS = 2048


def check_binary(binary: pathlib.Path) -> None:
    if not os.access(binary, os.X_OK):
        raise CannotRun(f"{binary} is no program: build it with `cargo build --release --locked` or name another with --binary")


class Bench:
    def __init__(self, options, card, emit, deadline: float):
        self.options = options
        self.card = card
        self.emit = emit
        self.deadline = deadline
        self.limit = deadline
        self.ceilings_by_model = {}

    def step(self, name: str) -> bool:
        """Runs a step; whether it succeeded or was skipped for a reason."""
        begun = time.monotonic()
        self.limit = min(self.deadline, begun + LIMITS[name])
        outcome, reason = "ok", None
        try:
            if begun >= self.deadline:
                raise Skipped("the budget of seconds is spent")
            getattr(self, name)()
        except Skipped as skipped:
            outcome, reason = "skipped", str(skipped)
        except (Failed, OSError, ValueError, KeyError, TypeError) as failed:
            outcome, reason = "failed", str(failed) or repr(failed)
        seconds = time.monotonic() - begun
        self.emit(
            {"step": name, "name": "step", "value": round(seconds, 1), "unit": "s", "outcome": outcome, "why": reason}
        )
        print(f"# {name}: {outcome}{f', {reason}' if reason else ''} ({seconds:.0f} s)", file=sys.stderr)
        return outcome != "failed"

    def left(self) -> float:
        return self.limit - time.monotonic()

    def figure(self, step: str, name: str, value: float, unit: str, **more) -> None:
        self.emit({"step": step, "name": name, "value": value, "unit": unit, **more})

    # The steps.

    def doctor(self, *device) -> list:
        # It ends with 1 when a check fails, and prints its list all the same.
        command = [self.options.binary, "--format", "json", "doctor", *device]
        return json.loads(run(command, self.left(), allowed=(0, 1)))

    def checks(self, step: str, checks: list) -> None:
        for check in checks:
            self.figure(step, check["check"], check["found"], "finding", status=check["status"], fix=check["fix"])
        failed = [check["check"] for check in checks if check["status"] == "fail"]
        if failed:
            raise Failed(f"checks that fail: {', '.join(failed)}")

    def libraries(self) -> None:
        words = ("cuda", "nvidia", "cublas", "nvrtc")
        found = [c for c in self.doctor() if any(word in c["check"].lower() for word in words)]
        if not found:
            raise Failed("doctor says nothing of CUDA: the binary is built without it")
        self.checks("libraries", found)

    def self_tests(self) -> None:
        device = self.options.device
        tests = [c for c in self.doctor("--device", device) if device in c["check"]]
        if not any(c["check"].startswith("self-test") for c in tests):
            raise Failed(f"doctor --device {device} runs no self-test")
        self.checks("self_tests", tests)

    def sanitizer(self) -> None:
        program = profile.tool("compute-sanitizer")
        if program is None:
            raise Skipped("compute-sanitizer is not installed (part of a CUDA toolkit)")
        for tool in ("memcheck", "racecheck"):
            command = [program, "--tool", tool, "--error-exitcode", "9", self.options.binary]
            run([*command, "--format", "json", "doctor", "--device", self.options.device], self.left())
            self.figure("sanitizer", tool, 0, "errors")

    def engine_bench(self, model: str, *more) -> list:
        """The objects that engine-bench prints, one on a line."""
        command = [self.options.binary, "engine-bench", "--device", self.options.device, "--model", f"dummy:{model}"]
        output = run([*command, "--precision", "bf16", *more], self.left())
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def measured_ceilings(self, model: str) -> dict:
        if model not in self.ceilings_by_model:
            (self.ceilings_by_model[model],) = self.engine_bench(model, "--ceilings")
        return self.ceilings_by_model[model]

    def ceilings(self) -> None:
        for model in SHAPES:
            found = self.measured_ceilings(model)
            self.figure("ceilings", "copy", found["copy_bytes_s"] / 1e12, "TB/s", model=model)
            for product in found["products"]:
                shape = f"{product['outputs']}x{product['inputs']}, {product['rows']} rows"
                self.figure("ceilings", f"product {shape}", product["flop_s"] / 1e12, "TFLOP/s", model=model)

    def row_bits(self) -> None:
        for model in SHAPES:
            agree = self.measured_ceilings(model)["row_bits_agree"]
            self.figure("row_bits", "a row's bits are equal beside any number of rows", agree, "finding", model=model)

    def engine(self) -> None:
        for model, shape in SHAPES.items():
            self.prefill(model, shape)
            if model == GUARD:
                self.classify(model)
            self.decode(model, shape, self.fitting(shape), ())
        self.decode(GUARD, SHAPES[GUARD], (1, 64), ("--no-graphs",))

    def fitting(self, shape: Shape) -> tuple:
        """The numbers of sequences that the card has memory for."""
        room = self.card.memory_bytes - shape.weight_bytes() - SCRATCH_BYTES
        found = tuple(n for n in SEQUENCES if n * shape.kv_bytes(CONTEXT + DECODED + BLOCK_TOKENS) <= room)
        if not found:
            raise Failed("the card has no memory for the model and one sequence")
        return found

    def prefill(self, model: str, shape: Shape) -> None:
        counts = ("--prompt-tokens", PREFILL_TOKENS, "--decode-tokens", 0, "--sequences", f"1,{PREFILL_SEQUENCES}")
        alone, found = self.engine_bench(model, *counts)
        limit = best_prefill(shape, self.ceilings_by_model.get(model))
        name = f"prefill {PREFILL_SEQUENCES} x {PREFILL_TOKENS}"
        self.limited(name, found["prefill_tok_s"], limit, model, PREFILL_SHARE)
        self.limited(f"prefill {PREFILL_TOKENS}", alone["prefill_tok_s"], limit, model, None)
        self.figure("engine", "load", found["load_s"], "s", model=model)
        self.figure("engine", "weights and KV cache", found["resident_bytes"] / 2**30, "GiB", model=model)
        self.figure("engine", "memory of the card", found["device_bytes"] / 2**30, "GiB", model=model)

    def decode(self, model: str, shape: Shape, numbers: tuple, more: tuple) -> None:
        together = ",".join(map(str, numbers))
        counts = ("--prompt-tokens", CONTEXT, "--decode-tokens", DECODED, "--sequences", together)
        for found in self.engine_bench(model, *counts, "--max-batch-tokens", STEP_TOKENS, *more):
            sequences = found["sequences"]
            limit = best_decode(shape, sequences, self.ceilings_by_model.get(model))
            goal = DECODE_SHARE if sequences <= MOST_BOUND_SEQUENCES and not more else None
            name = f"decode at {sequences}{', no graphs' if more else ''}"
            self.limited(name, found["decode_tok_s"], limit, model, goal)

    def classify(self, model: str) -> None:
        counts = ("--prompt-tokens", CONVERSATION, "--shared-tokens", SHARED, "--decode-tokens", 0)
        counts = (*counts, "--max-batch-tokens", STEP_TOKENS)
        (found,) = self.engine_bench(model, *counts, "--sequences", CONVERSATIONS)
        speed = found["prefill_tok_s"] / (CONVERSATION - SHARED)
        self.figure("engine", "classify", speed, "conversations/s", model=model, goal=CLASSIFICATIONS)

    def limited(self, name: str, speed: float, limit: "float | None", model: str, goal: "float | None") -> None:
        """A speed in tokens/s, and the share that it is of what the card can do at best."""
        share = speed / limit if limit else None
        self.figure("engine", name, speed, "tokens/s", model=model, limit=limit, share=share, goal_share=goal)

    def server(self) -> None:
        found = serving.measure(self.options, SHAPES[GUARD], SERVED_CONVERSATIONS, self.left)
        tokens = f"{found['prompt_tokens']} tokens, {found['cached_tokens']} of them cached"
        self.figure("server", f"engine alone, {tokens}", found["engine"], "conversations/s", model=GUARD)
        share = found["served"] / found["engine"]
        self.figure(
            "server", "classify by the server", found["served"], "conversations/s", model=GUARD,
            limit=found["engine"], share=share, goal_share=SERVED_SHARE,
        )  # fmt: skip

    def profile(self) -> None:
        program = profile.tool("ncu")
        if program is None:
            raise Skipped("ncu is not installed (NVIDIA Nsight Compute, part of a toolkit)")
        command = [self.options.binary, "engine-bench", "--device", self.options.device, "--model", f"dummy:{GUARD}"]
        counts = ["--prompt-tokens", PREFILL_TOKENS, "--decode-tokens", 0, "--sequences", PREFILL_SEQUENCES]
        command += ["--precision", "bf16", *counts, "--no-graphs"]
        for kernel, skipped in profile.KERNELS.items():
            output = run(profile.command(program, kernel, skipped, command), self.left())
            for line in profile.metrics(output):
                self.emit({"step": "profile", **line})

    def peers(self) -> None:
        commands = peers.commands(self.options)
        if not commands:
            raise Skipped("no peer is named: give --transformers, --vllm or --llama-cpp")
        failed = []
        for name, command in commands:
            try:
                for line in peers.figures(name, run(command, self.left())):
                    self.emit({"step": "peers", "peer": name, **line})
            except (Failed, ValueError, KeyError) as error:
                failed.append(f"{name}: {error}")
        if failed:
            raise Failed("; ".join(failed))


def best_prefill(shape: Shape, ceilings: "dict | None") -> "float | None":
    """Tokens/s if each product ran as fast as it was measured alone, and nothing else took time."""
    if ceilings is None:
        return None
    rates = {(p["outputs"], p["inputs"]): p["flop_s"] for p in ceilings["products"] if p["rows"] == CEILING_ROWS}
    products = shape.products().values()
    if not all(product in rates for product in products):
        return None
    seconds = sum(2 * outputs * inputs / rates[(outputs, inputs)] for outputs, inputs in products)
    return 1 / (shape.layers * seconds)


def best_decode(shape: Shape, sequences: int, ceilings: "dict | None") -> "float | None":
    """Tokens/s if reading weights and keys and values at the speed of a copy were all that a step does."""
    if ceilings is None:
        return None
    read = shape.bytes_per_step() + sequences * shape.kv_bytes(CONTEXT + DECODED // 2)
    return sequences * ceilings["copy_bytes_s"] / read
