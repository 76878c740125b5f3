"""prefill_N and decode_N, and the memory of both: each side's own engine benchmark, without a server.

Both sides compute the same counts: a prompt of N tokens, ours in one step and llama.cpp's in pieces of 512, its default; or for N
sequences, each with 64 tokens of context, 64 further tokens each, one per step. Tokens per second are over all sequences."""

import dataclasses
import json
import pathlib
import re
import sys

from .machine import Failed, Setup, progress, run, unmapped

PEAK = pathlib.Path(__file__).resolve().parent / "peak.py"
CONTEXT = 64
# Those that are measured unless others are named.
SPEEDS = (*(f"prefill_{tokens}" for tokens in (128, 512, 2048)), *(f"decode_{1 << power}" for power in range(7)))
# Of peak_rss_engine: a prompt, and what is generated behind it.
MEMORY_PROMPT, MEMORY_STEPS = 512, 64


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a name such as decode_8 stands for."""

    # Tokens of the prompt where it is prefill, otherwise sequences.
    count: int
    prefill: bool

    @classmethod
    def of(cls, name: str) -> "Speed | None":
        """None where the name is not one of a speed."""
        found = re.fullmatch("(prefill|decode)_([1-9][0-9]{0,4})", name)
        return found and cls(int(found[2]), found[1] == "prefill")


def steps(quick: bool) -> int:
    """Tokens that each sequence generates."""
    return 32 if quick else 64


def measure(setup: Setup, name: str, repetitions: int, quick: bool) -> tuple[list[float], list[float]]:
    """Alternating repetitions of one figure: tokens/s of ours and of the peer."""
    speed, generated = Speed.of(name), steps(quick)
    ours, peer = [], []
    for repetition in range(repetitions):
        ours.append(our_speed(setup, speed, quick))
        if speed.prefill:
            peer.append(peer_bench(setup, ["-p", speed.count, "-n", 0]))
        elif speed.count == 1:
            peer.append(peer_bench(setup, ["-p", 0, "-n", generated, "-d", CONTEXT]))
        else:
            peer.append(peer_batched(setup, generated, speed.count))
        progress(f"{name} {repetition + 1}/{repetitions}: ours {ours[-1]:.1f}, peer {peer[-1]:.1f} tokens/s")
    return ours, peer


def our_speed(setup: Setup, speed: Speed, quick: bool) -> float:
    """Tokens/s of our engine."""
    if speed.prefill:
        return json.loads(run(our_bench(setup, speed.count, 0, 1)))["prefill_tok_s"]
    return json.loads(run(our_bench(setup, CONTEXT, steps(quick), speed.count)))["decode_tok_s"]


def our_bench(setup: Setup, prompt: int, decode: int, sequences: int) -> list:
    """The command that measures our engine; it prints one JSON object."""
    command = [setup.ours, "engine-bench", "--model", setup.model, "--threads", setup.threads]
    return command + [
        *("--precision", setup.precision, "--prompt-tokens", prompt, "--decode-tokens", decode, "--sequences", sequences)
    ]


def llama_bench(setup: Setup, counts: list) -> list:
    """The command that measures llama.cpp with these counts, which warms up by itself; one repetition, since ours and theirs
    alternate outside."""
    return [setup.peer / "llama-bench", "-m", setup.model, "-t", setup.threads, "-r", 1, "-o", "json", *counts]


def peer_bench(setup: Setup, counts: list) -> float:
    """Tokens/s of the one test that the counts stand for."""
    results = json.loads(run(llama_bench(setup, counts)))
    if len(results) != 1:
        raise Failed(f"llama-bench printed {len(results)} results instead of one")
    return float(results[0]["avg_ts"])


def peer_batched(setup: Setup, generated: int, sequences: int) -> float:
    """llama-batched-bench: speed of the generation phase over all sequences."""
    command = [setup.peer / "llama-batched-bench", "-m", setup.model, "-t", setup.threads, "-tb", setup.threads]
    command += ["-c", sequences * (CONTEXT + generated), "-npp", CONTEXT, "-ntg", generated, "-npl", sequences]
    lines = [line for line in run(command + ["--output-format", "jsonl"]).splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise Failed(f"llama-batched-bench printed {len(lines)} results instead of one")
    return float(json.loads(lines[0])["speed_tg"])


def memory(setup: Setup, repetitions: int) -> tuple[list[float], list[float]]:
    """Alternating repetitions of the peak memory of a prompt and of what is generated behind it, in one sequence: MiB of ours
    and of the peer."""
    peer_command = llama_bench(setup, ["-p", 0, "-n", 0, "-pg", f"{MEMORY_PROMPT},{MEMORY_STEPS}"])
    peer_command += unmapped(setup.peer / "llama-bench")
    ours, peer = [], []
    for repetition in range(repetitions):
        ours.append(peak_mib(our_bench(setup, MEMORY_PROMPT, MEMORY_STEPS, 1)))
        peer.append(peak_mib(peer_command))
        progress(f"memory {repetition + 1}/{repetitions}: ours {ours[-1]:.0f}, peer {peer[-1]:.0f} MiB")
    return ours, peer


def peak_mib(command: list) -> float:
    """The most memory that a program which must succeed ever had resident, in MiB, as the system tells it at the program's
    end."""
    return int(run([sys.executable, PEAK, *command])) / 1024
