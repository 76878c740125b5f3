"""Writes sampler.json: what Hugging Face transformers' logits processors keep, and with which probabilities.

Run with torch and transformers installed: python3 tests/golden/sampler.py
"""

import json
import pathlib

import torch
import transformers
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 300
CASES = [  # temperature, top_k, top_p, repetition_penalty
    (1.0, 0, 1.0, 1.0),
    (0.7, 0, 1.0, 1.3),
    (1.0, 5, 1.0, 1.0),
    (1.5, 40, 1.0, 1.1),
    (1.0, 0, 0.9, 1.0),
    (0.6, 0, 0.5, 1.0),
    (2.0, 0, 0.99, 1.0),  # a nucleus of more than 64 tokens
    (0.8, 20, 0.95, 1.2),
    (1.0, 3, 0.01, 1.0),  # one token stays
    (1.0, 500, 1.0, 1.0),  # k larger than the vocabulary
]


def case(index, temperature, top_k, top_p, penalty):
    generator = torch.Generator().manual_seed(index)
    # Multiples of 1/64: exact in f32 and in JSON.
    logits = (torch.randn(VOCAB, generator=generator) * 3 * 64).round() / 64
    context = torch.randint(0, VOCAB, (30,), generator=generator)
    context = torch.cat([context, context[:10]])  # repeated tokens are penalised once
    processors = LogitsProcessorList()
    if penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    scores = processors(context[None], logits.double()[None])[0]
    probabilities = scores.softmax(-1)
    kept = torch.isfinite(scores).nonzero().flatten().tolist()
    return {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": penalty,
        "logits": logits.tolist(),
        "context": context.tolist(),
        "kept": kept,
        "probabilities": [probabilities[i].item() for i in kept],
        "logprob_0": logits.double().log_softmax(-1)[0].item(),
    }


def main():
    golden = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "cases": [case(i, *parameters) for i, parameters in enumerate(CASES)],
    }
    path = pathlib.Path(__file__).with_name("sampler.json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
