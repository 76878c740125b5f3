"""A guard that a server can serve, in a model's shape, without a download: a folder with a configuration, a vocabulary
made up of a few hundred words, and weights that are all 0.

The weights are a hole in a file, which takes no space on a disk. With them every token is equally likely, so the guard
says the first one of its vocabulary, `safe`, and each classification is one forward pass of its prompt, as most of a
real guard's are. Zeros take less power to multiply than real weights: a speed with them is compared with nothing but
another speed with them.
"""

import json
import pathlib
import struct

from .shapes import BF16_BYTES, Shape

# Without them our server takes the model for no Llama Guard 3.
SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
WORDS = (
    "garden bread river mountain window letter music winter summer market teacher doctor bridge kitchen table "
    "paper water stone forest harbour village engine lamp bottle blanket clock candle basket carpet ladder "
    "mirror pencil pocket ribbon saddle ticket wagon yellow quiet heavy simple narrow gentle early careful "
    "carry gather measure repair deliver follow borrow finish explain remember because without between before "
    "after under about every other people morning evening"
).split()
# The words of the guard's own text, so that a prompt has about as many tokens as with a real vocabulary.
TASK = (
    "Task Check if there is unsafe content in User Agent messages conversations according our safety policy with the "
    "below categories BEGIN UNSAFE CONTENT CATEGORIES END CONVERSATION Violent Non Crimes Sex Child Exploitation "
    "Defamation Specialized Advice Privacy Intellectual Property Indiscriminate Weapons Hate Self Harm Sexual "
    "Elections Code Interpreter Abuse Provide your assessment for ONLY THE LAST message above conversation First line "
    "must read safe or If second include a comma separated list of violated user assistant"
).split()


def byte_alphabet() -> list:
    """The characters that stand for bytes in byte-level vocabularies, as GPT-2 chose them."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def vocabulary() -> tuple:
    """Tokens in the order of their ids, and the merges that make words of bytes. `safe` is the first."""
    alphabet = byte_alphabet()
    space = alphabet[ord(" ")]
    merges, made = [], {}
    # The words that verdicts begin with are merged first, so that each is whole wherever it stands.
    for word in ("safe", "unsafe", *(space + word for word in (*TASK, *WORDS)), *TASK):
        for end in range(2, len(word) + 1):
            whole = word[:end]
            if whole not in made:
                made[whole] = None
                merges.append([word[: end - 1], word[end - 1]])
    tokens = ["safe", *(token for token in (*alphabet, *made) if token != "safe")]
    return tokens, merges


def tokenizer() -> dict:
    tokens, merges = vocabulary()
    added = [
        {
            "id": len(tokens) + number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, text in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges},
    }


def config(shape: Shape) -> dict:
    """The shape as Hugging Face writes it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
    }


def tensors(shape: Shape) -> dict:
    """Names and shapes of all tensors."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found = {
        "model.embed_tokens.weight": [shape.vocabulary, shape.hidden],
        "model.norm.weight": [shape.hidden],
    }
    if not shape.tied:
        found["lm_head.weight"] = [shape.vocabulary, shape.hidden]
    for layer in range(shape.layers):
        parts = {
            "self_attn.q_proj": [queries, shape.hidden],
            "self_attn.k_proj": [keys, shape.hidden],
            "self_attn.v_proj": [keys, shape.hidden],
            "self_attn.o_proj": [shape.hidden, queries],
            "mlp.gate_proj": [shape.inner, shape.hidden],
            "mlp.up_proj": [shape.inner, shape.hidden],
            "mlp.down_proj": [shape.hidden, shape.inner],
            "input_layernorm": [shape.hidden],
            "post_attention_layernorm": [shape.hidden],
        }
        found |= {f"model.layers.{layer}.{name}.weight": sizes for name, sizes in parts.items()}
    return found


def write_weights(path: pathlib.Path, shape: Shape) -> None:
    """A safetensors file: its header, and a hole for the rest."""
    header, end = {}, 0
    for name, sizes in tensors(shape).items():
        begin, count = end, 1
        for size in sizes:
            count *= size
        end = begin + count * BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def write(folder: pathlib.Path, shape: Shape) -> None:
    settings = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[-1]}
    files = {"config.json": config(shape), "tokenizer.json": tokenizer(), "tokenizer_config.json": settings}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False))
    write_weights(folder / "model.safetensors", shape)
