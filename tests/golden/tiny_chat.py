"""Makes a random chat model that a server can serve in both roles, small and quick: tests/golden/tiny-chat.

    pip install numpy safetensors tokenizers
    python tests/golden/tiny_chat.py

It says a few letters, `safe`, `unsafe` and the end of its turn, each often enough: its output matrix knows little else. What it
says means nothing. Its vocabulary is trained on the demo guard's own prompt, which is then short.
"""

import json
import pathlib

import numpy
import tokenizers
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "tiny-chat"
HIDDEN, FFN, HEADS, KV_HEADS, HEAD, LAYERS, VOCAB = 32, 48, 2, 1, 16, 1, 900

bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = tokenizers.decoders.ByteLevel()
texts = [(HERE.parents[1] / "src" / "guard" / name).read_text() for name in ("policy.rs", "mod.rs")]
texts += ["safe unsafe safe\nunsafe\nsafe unsafe"] * 20
trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCAB, show_progress=False, special_tokens=["<|im_start|>", "<|im_end|>"],
                                         initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
bpe.train_from_iterator(texts, trainer)
size = bpe.get_vocab_size()
said = [bpe.token_to_id(text) for text in ("safe", "unsafe", "a", "b", "c", "<|im_end|>")]
assert None not in said

draw = numpy.random.default_rng(4)
noise = lambda *shape, scale: (scale * draw.standard_normal(shape)).astype(numpy.float32)
head = numpy.zeros((size, HIDDEN), numpy.float32)
head[said] = noise(len(said), HIDDEN, scale=0.7)
embedding = noise(size, HIDDEN, scale=1.0)
# A verdict is often all that it says.
head[said[-1]] += 0.6 * (embedding[said[0]] + embedding[said[1]])
tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": head,
           "model.norm.weight": numpy.ones(HIDDEN, numpy.float32)}
for layer in range(LAYERS):
    at = f"model.layers.{layer}."
    shapes = {"self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
              "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
              "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}
    tensors |= {f"{at}{name}.weight": noise(*shape, scale=0.3) for name, shape in shapes.items()}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{at}{norm}.weight"] = numpy.ones(HIDDEN, numpy.float32)

TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size, "hidden_size": HIDDEN,
    "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float32", "eos_token_id": bpe.token_to_id("<|im_end|>"),
}
OUT.mkdir(parents=True, exist_ok=True)
save_file(tensors, OUT / "model.safetensors")
bpe.save(str(OUT / "tokenizer.json"), pretty=False)
for name, content in (("config.json", config),
                      ("tokenizer_config.json", {"eos_token": "<|im_end|>", "chat_template": TEMPLATE})):
    (OUT / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
