"""Makes tiny random LoRA adapters with Hugging Face PEFT, for checkpoints of model_logits.py, and their logits.

    pip install torch transformers safetensors peft gguf
    python tests/golden/lora.py LLAMA_CPP [NAME ...]

LLAMA_CPP is a checkout of https://github.com/ggml-org/llama.cpp (tag b11434): its own converter makes adapter.gguf
where a case asks for one. Writes tests/golden/adapters/NAME/ (adapter_config.json, adapter_model.safetensors,
golden.json, maybe adapter.gguf). Logits are computed by PEFT on CPU in f32 with eager attention, from base and
adapter as stored; each module that is changed must change them, or the script fails.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

MODELS = pathlib.Path(__file__).parent / "models"
ROOT = pathlib.Path(__file__).parent / "adapters"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Case:
    def __init__(self, base, dtype=torch.float32, gguf=False, **config):
        self.base, self.dtype, self.gguf, self.config = base, dtype, gguf, config


CASES = {
    "llama-patterns": Case("gqa-untied-f32", r=4, lora_alpha=6, target_modules=ALL, use_rslora=True,
                           rank_pattern={"down_proj": 3, r"layers\.1\.self_attn\.(q|k)_proj": 7},
                           alpha_pattern={"o_proj": 3, "layers.0.mlp.up_proj": 9}),
    "llama-bf16": Case("llama3-rope-tied-bf16", torch.bfloat16, gguf=True, r=5, lora_alpha=10,
                       target_modules=r"model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"),
    "phi3-fused": Case("phi3-longrope", gguf=True, r=4, lora_alpha=4, target_modules="all-linear"),
    "qwen2-one-layer": Case("qwen2", torch.float16, r=8, lora_alpha=4, target_modules=["q_proj", "v_proj"],
                            layers_to_transform=[1]),
    "gemma2": Case("gemma2", gguf=True, r=3, lora_alpha=3, target_modules=["k_proj", "o_proj", "up_proj", "down_proj"]),
    "cohere": Case("cohere", r=2, lora_alpha=4, target_modules=["q_proj", "k_proj", "gate_proj", "down_proj"]),
}


def base_of(case):
    return AutoModelForCausalLM.from_pretrained(MODELS / case.base, dtype=torch.float32, attn_implementation="eager")


def logits_of(case, folder, tokens):
    model = PeftModel.from_pretrained(base_of(case), folder).eval()
    with torch.no_grad():
        return model(tokens).logits[0]


def convert(case, folder, checkout):
    with tempfile.TemporaryDirectory() as base:
        config = json.loads((MODELS / case.base / "config.json").read_text())
        # Published files of this family have it; transformers no longer writes it.
        config.setdefault("rotary_pct", 1.0)
        (pathlib.Path(base) / "config.json").write_text(json.dumps(config))
        command = [sys.executable, checkout / "convert_lora_to_gguf.py", "--base", base, "--outtype", "f32",
                   "--outfile", folder / "adapter.gguf", folder]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)


def make(index, name, case, checkout):
    torch.manual_seed(100 + index)
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    base = base_of(case)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **case.config))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # PEFT begins with B = 0, which would change nothing.
            if "lora_" in key:
                parameter.normal_(0.0, 0.6 / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = case.base
    # PEFT keeps a set, whose order changes from run to run.
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    weights = folder / "adapter_model.safetensors"
    stored = {key: value.to(case.dtype) for key, value in load_file(weights).items()}
    save_file(stored, weights)
    tokens = torch.randint(0, base.config.vocab_size - 3, (1, 150))
    logits = logits_of(case, folder, tokens)
    for module in {key.rsplit(".", 3)[1] for key in stored}:
        save_file({key: value * 0 if f".{module}." in key else value for key, value in stored.items()}, weights)
        change = (logits_of(case, folder, tokens) - logits).abs().max()
        assert change > 0.02, f"{name}: without {module} logits change by {change} only"
    save_file(stored, weights)
    if case.gguf:
        convert(case, folder, checkout)
    golden = {
        "made_by": f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
        "base": case.base,
        "tokens": tokens[0].tolist(),
        "rows": {str(row): [round(value, 7) for value in logits[row].tolist()] for row in [0, 17, 64, 149]},
    }
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    size = sum(p.stat().st_size for p in folder.iterdir()) // 1024
    print(f"{name}: {size} KiB, largest logit {float(logits.abs().max()):.2f}")


def main():
    checkout = pathlib.Path(sys.argv[1])
    wanted = sys.argv[2:] or CASES
    for index, (name, case) in enumerate(CASES.items()):
        if name in wanted:
            make(index, name, case, checkout)


if __name__ == "__main__":
    main()
