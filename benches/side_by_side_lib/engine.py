"""prefill_512, decode_1, decode_8 and decode_32: each side's own engine benchmark, without a server.

Both sides compute the same counts: a prompt of 512 tokens in one go; then for N sequences, each with 64 tokens of
context, 64 further tokens each, one per step. Tokens per second are over all sequences."""

import json

from .machine import Failed, Setup, progress, run

CONTEXT = 64


def steps(quick: bool) -> int:
    """Tokens that each sequence generates."""
    return 32 if quick else 64


def measure(setup: Setup, name: str, repetitions: int, quick: bool) -> tuple[list[float], list[float]]:
    """Alternating repetitions of one figure: tokens/s of ours and of the peer."""
    kind, count = name.split("_")
    count, generated = int(count), steps(quick)
    ours, peer = [], []
    for repetition in range(repetitions):
        if kind == "prefill":
            ours.append(our_bench(setup, count, 0, 1)["prefill_tok_s"])
            peer.append(peer_bench(setup, ["-p", count, "-n", 0]))
        else:
            ours.append(our_bench(setup, CONTEXT, generated, count)["decode_tok_s"])
            if count == 1:
                peer.append(peer_bench(setup, ["-p", 0, "-n", generated, "-d", CONTEXT]))
            else:
                peer.append(peer_batched(setup, generated, count))
        progress(f"{name} {repetition + 1}/{repetitions}: ours {ours[-1]:.1f}, peer {peer[-1]:.1f} tokens/s")
    return ours, peer


def our_bench(setup: Setup, prompt: int, decode: int, sequences: int) -> dict:
    """Our engine: {"prefill_tok_s", "decode_tok_s"}."""
    command = [setup.ours, "engine-bench", "--model", setup.model, "--threads", setup.threads]
    command += ["--precision", setup.precision, "--prompt-tokens", prompt, "--decode-tokens", decode, "--sequences", sequences]
    return json.loads(run(command))


def peer_bench(setup: Setup, counts: list) -> float:
    """llama-bench, which warms up by itself; one repetition, since ours and theirs alternate outside."""
    command = [setup.peer / "llama-bench", "-m", setup.model, "-t", setup.threads, "-r", 1, "-o", "json"]
    results = json.loads(run(command + counts))
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
