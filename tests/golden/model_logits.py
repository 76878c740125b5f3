"""Makes tiny random checkpoints of every supported family and their logits with Hugging Face transformers on CPU.

    pip install torch transformers safetensors
    python tests/golden/model_logits.py [NAME ...]

Writes tests/golden/models/NAME/ (config.json, safetensors, golden.json). Logits are computed in f32 with eager
attention from the weights as stored. Each case covers something else; what a case is about (`bites`) must change
its logits when it is taken away, or the script fails. Cases with `short` also have the logits of a prompt that is
no longer than the context the model was first trained with.
"""

import copy
import json
import pathlib
import shutil
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, CohereConfig, Cohere2Config, Gemma2Config, Gemma3Config
from transformers import GPTBigCodeConfig, GraniteConfig
from transformers import Gemma3ForConditionalGeneration, Gemma3TextConfig, LlamaConfig, MinistralConfig, MistralConfig
from transformers import Phi3Config, Qwen2Config, Qwen3Config

ROOT = pathlib.Path(__file__).parent / "models"
LLAMA = dict(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
BASE = dict(LLAMA, vocab_size=128, intermediate_size=48, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
LONG = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0 + 0.05 * i for i in range(12)],
            long_factor=[1.0 + 0.7 * i for i in range(12)], partial_rotary_factor=0.75)
SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA3 = {FULL: dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
          SLIDING: dict(rope_type="default", rope_theta=10000.0)}
GEMMA = dict(BASE, head_dim=32, query_pre_attn_scalar=32)
# For patterns of many layers.
NARROW = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16)
NO_EPS = {key: value for key, value in BASE.items() if key != "rms_norm_eps"}


class Case:
    def __init__(self, config, dtype=torch.bfloat16, shard="50GB", bites=None, short=None, bite=0.05):
        self.config, self.dtype, self.shard, self.bites, self.short = config, dtype, shard, bites or {}, short
        # By how much at least.
        self.bite = bite


# The first three were made by an earlier version of this script, with tokens up to the last.
CASES = {
    "gqa-untied-f32": Case(LlamaConfig(**LLAMA, tie_word_embeddings=False), torch.float32),
    "llama3-rope-tied-bf16": Case(LlamaConfig(**LLAMA, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "linear-rope-f16-sharded": Case(
        LlamaConfig(**{**LLAMA, "num_key_value_heads": 4}, tie_word_embeddings=False, head_dim=32,
                    rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
        torch.float16, "60KB"),
    "mistral-window": Case(MistralConfig(**BASE, sliding_window=20, head_dim=32), bites=dict(sliding_window=None)),
    "ministral-mixed": Case(MinistralConfig(**BASE, sliding_window=20, head_dim=16, layer_types=[SLIDING, FULL]),
                            bites=dict(layer_types=[FULL, FULL])),
    "qwen2": Case(Qwen2Config(**BASE, rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "qwen2-window": Case(Qwen2Config(**BASE, tie_word_embeddings=True, use_sliding_window=True, sliding_window=24,
                                     max_window_layers=1), bites=dict(layer_types=[FULL, FULL])),
    "qwen3": Case(Qwen3Config(**BASE, head_dim=32, tie_word_embeddings=True)),
    "gemma2": Case(
        Gemma2Config(**GEMMA, sliding_window=24, attn_logit_softcapping=1.5, final_logit_softcapping=3.0),
        bites=dict(layer_types=[FULL, FULL], attn_logit_softcapping=None, final_logit_softcapping=None)),
    "gemma3": Case(Gemma3TextConfig(**{**GEMMA, **NARROW, "num_hidden_layers": 6}, sliding_window=24,
                                    rope_parameters=GEMMA3), bites=dict(layer_types=[FULL] * 6)),
    "gemma3-pictures": Case(Gemma3Config(
        text_config=dict(GEMMA, query_pre_attn_scalar=40, num_hidden_layers=1, sliding_window=24,
                         rope_parameters=GEMMA3, layer_types=[SLIDING]),
        vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                           image_size=28, patch_size=14),
        mm_tokens_per_image=4, boi_token_index=125, eoi_token_index=126, image_token_index=127)),
    "phi3-window": Case(Phi3Config(**BASE, sliding_window=20, original_max_position_embeddings=512),
                        bites=dict(sliding_window=None)),
    "phi3-longrope": Case(Phi3Config(**{**BASE, "num_attention_heads": 2}, original_max_position_embeddings=64,
                                     tie_word_embeddings=True, rope_parameters=LONG), short=64),
    "cohere": Case(CohereConfig(**NO_EPS, use_qk_norm=True, logit_scale=0.25,
                                rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    "cohere2": Case(Cohere2Config(**{**NO_EPS, "num_hidden_layers": 4}, sliding_window=24, logit_scale=0.25,
                                  rope_parameters=dict(rope_type="default", rope_theta=50000.0)),
                    bites=dict(layer_types=[FULL] * 4)),
    "gpt-bigcode": Case(GPTBigCodeConfig(vocab_size=128, n_embd=64, n_head=4, n_layer=2, n_positions=192,
                                         bos_token_id=1, eos_token_id=2)),
    # The two forms of GELU are near each other: their logits differ by more than ten times what the test allows.
    "gpt-bigcode-gelu": Case(GPTBigCodeConfig(vocab_size=128, n_embd=64, n_head=4, n_layer=2, n_positions=192,
                                              bos_token_id=1, eos_token_id=2, activation_function="gelu"),
                             bites=dict(activation_function="gelu_pytorch_tanh"), bite=0.001),
    # The epsilon is large, because it takes part in how the residual multiplier is computed.
    "granite": Case(GraniteConfig(**{**BASE, "rms_norm_eps": 0.05, "hidden_size": 32, "num_attention_heads": 2,
                                     "num_key_value_heads": 1}, tie_word_embeddings=True,
                                  embedding_multiplier=3.0, residual_multiplier=0.3, attention_multiplier=0.1,
                                  logits_scaling=2.5),
                    bites=dict(embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=0.25,
                               logits_scaling=1.0, rms_norm_eps=1e-5)),
}


def model_of(config):
    if isinstance(config, Gemma3Config):
        return Gemma3ForConditionalGeneration(config)
    return AutoModelForCausalLM.from_config(config)


def randomise(model):
    # Gemma multiplies with one more than its norms' weights.
    less = 1.0 if "gemma" in model.config.model_type else 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The library's initial 0.02 would give logits near 0; these make every layer matter.
            if name.endswith(".bias"):
                parameter.normal_(0.0, 0.5)
            elif "norm" in name or ".ln_" in name:
                parameter.uniform_(0.5, 1.5).sub_(less)
            elif parameter.dim() == 2:
                parameter.normal_(0.0, 2.0 / parameter.shape[1] ** 0.5)
            else:
                parameter.uniform_(0.5, 1.5)


def logits_of(folder, tokens, **changes):
    config = AutoConfig.from_pretrained(folder)
    for key, value in changes.items():
        setattr(config, key, copy.deepcopy(value))
    kind = Gemma3ForConditionalGeneration if isinstance(config, Gemma3Config) else AutoModelForCausalLM
    reference = kind.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return reference(tokens).logits[0]


def rows_of(logits, rows):
    return {str(row): [round(value, 7) for value in logits[row].tolist()] for row in rows}


def make(index, name, case):
    torch.manual_seed(index)
    model = model_of(case.config)
    randomise(model)
    model = model.to(case.dtype)
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=case.shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    # The last three stand for pictures where there are any.
    tokens = torch.randint(0, case.config.get_text_config().vocab_size - 3, (1, 150))
    logits = logits_of(folder, tokens)
    for key, value in case.bites.items():
        changed = (logits_of(folder, tokens, **{key: value}) - logits).abs().max()
        assert changed > case.bite, f"{name}: without {key} logits change by {changed} only"
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "tokens": tokens[0].tolist(),
        "rows": rows_of(logits, [0, 1, 15, 16, 17, 63, 64, 100, 149]),
    }
    if case.short:
        short = logits_of(folder, tokens[:, :case.short])
        assert (short - logits[:case.short]).abs().max() > 0.05
        golden["short"] = {"max_context": case.short, "rows": rows_of(short, [0, 17, case.short - 1])}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    size = sum(p.stat().st_size for p in folder.iterdir()) // 1024
    print(f"{name}: {size} KiB, largest logit {float(logits.abs().max()):.2f}")


def main():
    wanted = sys.argv[1:] or CASES
    for index, (name, case) in enumerate(CASES.items()):
        if name in wanted:
            make(index, name, case)


if __name__ == "__main__":
    main()
