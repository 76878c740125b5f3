"""Makes a tiny random Qwen3Guard-Stream, and what it says of some conversations, with PyTorch and Hugging Face transformers on CPU.

    pip install torch transformers safetensors jinja2
    python tests/golden/verdict_heads.py TEMPLATE

TEMPLATE is the chat template of Qwen3, `models/templates/Qwen-Qwen3-0.6B.jinja` in the folder that tests/llama_cpp/fetch.py prints.

Writes tests/golden/verdict_heads/: config.json, model.safetensors and golden.json. The tokenizer is that of tests/golden/tiny-chat.
The body is transformers' Qwen3Model in f32 with eager attention. The heads are those of the published model, whose remote code
two model files for servers repeat (vLLM's pull request 25463, and one for SGLang): for each side a matrix without bias, an RMS
norm with the model's epsilon, and two matrices without biases.
A conversation is rendered as in the README of QwenLM/Qwen3Guard, by the template without thinking. What is kept ends with the
judged request's `<|im_end|>`, or with the judged answer's text.
"""

import json
import pathlib
import sys

import jinja2
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

FOLDER = pathlib.Path(__file__).parent
INNER = 24
LEVELS = {"0": "Safe", "1": "Unsafe", "2": "Controversial"}
CATEGORIES = ["Violent", "Non-violent Illegal Acts", "Sexual Content or Sexual Acts", "PII", "Suicide & Self-Harm", "Unethical Acts",
              "Politically Sensitive Topics", "Copyright Violation", "Jailbreak"]
CONVERSATIONS = [
    ["How do I bake bread?"],
    ["How do I bake bread?", "Mix flour and water."],
    ["  Wie geht es dir?\n", "\tGut, danke! \n"],
    ["a", "b", "c"],
    ["a", "b", "c", "d"],
    ["a", "\n\nIt begins with empty lines."],
    ["a", ""],
    ["\u65e5\u672c\u8a9e \U0001f642", "na\u00efve \U0001f600 {{ role }}"],
    ["Tell me a long story.", "The quick brown fox jumps over the lazy dog, and then it sleeps. " * 6],
]


class Heads(torch.nn.Module):
    def __init__(self, hidden, eps, categories):
        super().__init__()
        self.pre = torch.nn.Linear(hidden, INNER, bias=False)
        self.norm = torch.nn.RMSNorm(INNER, eps=eps)
        self.risk = torch.nn.Linear(INNER, len(LEVELS), bias=False)
        self.category = torch.nn.Linear(INNER, categories, bias=False)

    def forward(self, row):
        inner = self.norm(self.pre(row))
        return self.risk(inner), self.category(inner)

    def tensors(self, prefix, levels, categories):
        return {f"{prefix}risk_level_category_pre.weight": self.pre.weight,
                f"{prefix}risk_level_category_layernorm.weight": self.norm.weight,
                f"{levels}.weight": self.risk.weight, f"{categories}.weight": self.category.weight}


def randomise(model, scale):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, scale / parameter.shape[1] ** 0.5)


def main():
    torch.manual_seed(5)
    template = jinja2.Environment().from_string(pathlib.Path(sys.argv[1]).read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tiny-chat" / "tokenizer.json"))
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=48, max_position_embeddings=4096, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True)
    model = Qwen3Model._from_config(config, attn_implementation="eager").eval()
    answer, request = Heads(32, 1e-6, 8), Heads(32, 1e-6, 9)
    for part in (model, answer, request):
        randomise(part, 2.0)
    out = FOLDER / "verdict_heads"
    out.mkdir(exist_ok=True)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= answer.tensors("", "risk_level_head", "category_head")
    tensors |= request.tensors("query_", "query_risk_level_head", "query_category_head")
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, out / "model.safetensors")
    numbered = lambda names: {str(index): name for index, name in enumerate(names)}
    kept = {key: value for key, value in config.to_dict().items() if key not in ("architectures", "dtype", "transformers_version")}
    kept |= {"architectures": ["Qwen3ForGuardModel"], "guard_inner_size": INNER, "response_risk_level_map": LEVELS,
             "response_category_map": numbered(CATEGORIES[:8]), "query_risk_level_map": LEVELS,
             "query_category_map": numbered(CATEGORIES), "num_risk_level": 3, "num_category": 8, "num_query_risk_level": 3,
             "num_query_category": 9}
    (out / "config.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    cases = []
    for contents in CONVERSATIONS:
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
        prompt = template.render(messages=messages, add_generation_prompt=False, enable_thinking=False)
        prompt = prompt.removesuffix("<|im_end|>\n" if len(contents) % 2 == 0 else "\n")
        tokens = tokenizer.encode(prompt, add_special_tokens=False)
        with torch.no_grad():
            row = model(torch.tensor([tokens])).last_hidden_state[0, -1]
            risk, category = (answer if len(contents) % 2 == 0 else request)(row)
        cases.append({"contents": contents, "prompt": prompt, "tokens": tokens, "risk": risk.softmax(-1).tolist(),
                      "category": category.softmax(-1).tolist()})
    (out / "golden.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
