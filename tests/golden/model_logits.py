"""Makes tiny random Llama checkpoints and their logits with Hugging Face transformers on CPU.

    pip install torch transformers safetensors
    python tests/golden/model_logits.py

Writes tests/golden/models/NAME/ (config.json, safetensors, golden.json). Logits are computed in f32 from
the weights as stored. Each case covers something else: grouped-query attention, tied and untied
embeddings, llama3 and linear rope scaling, bf16 and f16 storage, shards.
"""

import json
import pathlib
import shutil

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).parent / "models"
BASE = dict(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
CASES = {
    "gqa-untied-f32": (dict(tie_word_embeddings=False), torch.float32, "50GB"),
    "llama3-rope-tied-bf16": (dict(tie_word_embeddings=True, rope_parameters=LLAMA3), torch.bfloat16, "50GB"),
    "linear-rope-f16-sharded": (
        dict(tie_word_embeddings=False, num_key_value_heads=4, head_dim=32,
             rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
        torch.float16, "60KB"),
}


def main():
    for index, (name, (overrides, dtype, shard)) in enumerate(CASES.items()):
        torch.manual_seed(index)
        config = LlamaConfig(**{**BASE, **overrides})
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                # The library's initial 0.02 would give logits near 0; these make every layer matter.
                if parameter.dim() == 2:
                    parameter.normal_(0.0, 2.0 / parameter.shape[1] ** 0.5)
                else:
                    parameter.uniform_(0.5, 1.5)
        model = model.to(dtype)
        folder = ROOT / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, max_shard_size=shard)
        (folder / "generation_config.json").unlink(missing_ok=True)
        reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        tokens = torch.randint(0, config.vocab_size, (1, 150))
        with torch.no_grad():
            logits = reference(tokens).logits[0]
        rows = [0, 1, 15, 16, 17, 63, 64, 100, 149]
        golden = {
            "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "tokens": tokens[0].tolist(),
            "rows": {str(row): [round(value, 7) for value in logits[row].tolist()] for row in rows},
        }
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")
        print(name, sorted(p.name for p in folder.iterdir()), float(logits.abs().max()))


if __name__ == "__main__":
    main()
