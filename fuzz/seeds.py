#!/usr/bin/env python3
"""Writes the first inputs of each target to fuzz/corpus/TARGET/seed-*: tiny files that are valid, so that fuzzing begins behind
the first check of a format. The same tree gives the same bytes.

usage: python3 fuzz/seeds.py
"""

import hashlib
import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORPUS = ROOT / "fuzz/corpus"
# What separates the parts of an input, see fuzz/src/input.rs.
NEXT = b"\n====\n"


def seeds(target: str, *inputs: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("seed-*"):
        old.unlink()
    for number, content in enumerate(inputs):
        (folder / f"seed-{number:02}").write_bytes(content)


def parts(*pieces: bytes | str) -> bytes:
    return NEXT.join(piece.encode() if isinstance(piece, str) else piece for piece in pieces)


def floats(count: int, scale: float = 0.1) -> list[float]:
    """Numbers without any meaning that are the same each time."""
    return [((index * 37 + 11) % 101 / 101 - 0.5) * scale for index in range(count)]


# -- GGUF ------------------------------------------------------------------------------------------------------------------


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(content) -> bytes:
    """The type and the bytes of a metadata value."""
    match content:
        case bool():
            return struct.pack("<IB", 7, content)
        case int():
            return struct.pack("<Ii", 5, content) if content < 0 else struct.pack("<II", 4, content)
        case float():
            return struct.pack("<If", 6, content)
        case str():
            return struct.pack("<I", 8) + string(content)
        case list():
            elements = [value(element) for element in content]
            kind = elements[0][:4] if elements else struct.pack("<I", 8)
            return struct.pack("<I", 9) + kind + struct.pack("<Q", len(elements)) + b"".join(e[4:] for e in elements)
    raise TypeError(content)


def gguf(metadata: dict, tensors: dict[str, list[int]]) -> bytes:
    """A file of version 3 whose tensors are f32."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, content in metadata.items():
        header += string(key) + value(content)
    data = b""
    for name, dimensions in tensors.items():
        header += string(name) + struct.pack("<I", len(dimensions))
        header += b"".join(struct.pack("<Q", size) for size in dimensions) + struct.pack("<IQ", 0, len(data))
        count = 1
        for size in dimensions:
            count *= size
        data += struct.pack(f"<{count}f", *floats(count))
        data += bytes(-len(data) % 32)
    return header + bytes(-len(header) % 32) + data


HIDDEN, FEED, HEADS, VOCABULARY = 16, 16, 2, 24


def decoder(architecture: str, norms: list[str]) -> tuple[dict, dict]:
    """Metadata and tensors of a model with one layer."""
    keys = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": HIDDEN,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": 1,
        "attention.key_length": HIDDEN // HEADS,
        "attention.value_length": HIDDEN // HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": HIDDEN // HEADS,
        "rope.freq_base": 10000.0,
        "vocab_size": VOCABULARY,
    }
    if architecture.startswith("gemma"):
        keys |= {"attention.sliding_window": 16, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
    metadata = {"general.architecture": architecture} | {f"{architecture}.{key}": each for key, each in keys.items()}
    head = HIDDEN // HEADS
    tensors = {
        "token_embd.weight": [HIDDEN, VOCABULARY],
        "output_norm.weight": [HIDDEN],
        "blk.0.attn_q.weight": [HIDDEN, HIDDEN],
        "blk.0.attn_k.weight": [HIDDEN, head],
        "blk.0.attn_v.weight": [HIDDEN, head],
        "blk.0.attn_output.weight": [HIDDEN, HIDDEN],
        "blk.0.ffn_gate.weight": [HIDDEN, FEED],
        "blk.0.ffn_up.weight": [HIDDEN, FEED],
        "blk.0.ffn_down.weight": [FEED, HIDDEN],
    }
    sizes = {"attn_q_norm": head, "attn_k_norm": head}
    tensors |= {f"blk.0.{norm}.weight": [sizes.get(norm, HIDDEN)] for norm in norms}
    return metadata, tensors


LLAMA = ["attn_norm", "ffn_norm"]


def models() -> None:
    adapter = (ROOT / "tests/golden/adapters/gemma2/adapter.gguf").read_bytes()
    seeds(
        "gguf",
        gguf(*decoder("llama", LLAMA)),
        gguf(*decoder("qwen3", [*LLAMA, "attn_q_norm", "attn_k_norm"])),
        gguf(*decoder("gemma2", [*LLAMA, "post_attention_norm", "post_ffw_norm"])),
        adapter,
    )

    def safetensors(tensors: dict[str, list[int]], kind: str = "F32") -> bytes:
        header, data = {}, b""
        for name, shape in tensors.items():
            count = 1
            for size in shape:
                count *= size
            begin = len(data)
            data += struct.pack(f"<{count}f", *floats(count))
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, len(data)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + data

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }
    layer = "model.layers.0"
    head = HIDDEN // HEADS
    tensors = {
        "model.embed_tokens.weight": [VOCABULARY, HIDDEN],
        "model.norm.weight": [HIDDEN],
        f"{layer}.input_layernorm.weight": [HIDDEN],
        f"{layer}.post_attention_layernorm.weight": [HIDDEN],
        f"{layer}.self_attn.q_proj.weight": [HIDDEN, HIDDEN],
        f"{layer}.self_attn.k_proj.weight": [head, HIDDEN],
        f"{layer}.self_attn.v_proj.weight": [head, HIDDEN],
        f"{layer}.self_attn.o_proj.weight": [HIDDEN, HIDDEN],
        f"{layer}.mlp.gate_proj.weight": [FEED, HIDDEN],
        f"{layer}.mlp.up_proj.weight": [FEED, HIDDEN],
        f"{layer}.mlp.down_proj.weight": [HIDDEN, FEED],
    }
    lora = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none", "task_type": "CAUSAL_LM"}
    update = f"base_model.model.{layer}.self_attn.q_proj"
    updates = {f"{update}.lora_A.weight": [2, HIDDEN], f"{update}.lora_B.weight": [HIDDEN, 2]}
    plain = {key: each for key, each in config.items() if key != "rope_scaling"}
    metricx = ROOT / "tests/golden/metricx/v23-bf16"
    seeds(
        "safetensors",
        parts(json.dumps(config), safetensors(tensors)),
        parts(json.dumps(plain), safetensors(tensors), json.dumps(lora), safetensors(updates)),
        parts((metricx / "config.json").read_bytes(), (metricx / "model.safetensors").read_bytes()),
    )


# -- Tokenizers and templates ----------------------------------------------------------------------------------------------

TEXTS = ["Hallo  Welt,\n\tça va? 1234 \U0001f600", "aaaa<|im_start|>user <s>"]


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, content) -> bytes:
    """A field of a protocol buffer: a number, a float, text, or a message."""
    match content:
        case bool() | int():
            return varint(number << 3) + varint(int(content))
        case float():
            return varint(number << 3 | 1) + struct.pack("<d", content)
        case str():
            return field(number, content.encode())
        case bytes():
            return varint(number << 3 | 2) + varint(len(content)) + content
    raise TypeError(content)


def piece(text: str, score: float, kind: int) -> bytes:
    score_field = varint(2 << 3 | 5) + struct.pack("<f", score)
    return field(1, field(1, text) + score_field + field(3, kind))


def tokenizers() -> None:
    chat = ROOT / "tests/golden/tiny-chat"
    unigram = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<s>", "special": True}, {"id": 1, "content": "<unk>", "special": True}],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": None,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {
            "type": "Unigram",
            "unk_id": 1,
            "vocab": [["<s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["a", -3.0], ["aa", -3.5], ["▁Hallo", -4.0]],
        },
    }
    seeds(
        "tokenizer_json",
        parts((chat / "tokenizer.json").read_bytes(), (chat / "tokenizer_config.json").read_bytes(), TEXTS[0]),
        parts(json.dumps(unigram, ensure_ascii=False), json.dumps({"eos_token": "<s>"}), TEXTS[1]),
    )

    bytes_pieces = b"".join(piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256))
    model = piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3) + bytes_pieces
    for text, score in [("▁", -1.0), ("a", -2.0), ("aa", -1.5), ("▁a", -3.0), ("▁Hallo", -9.0), ("l", -5.0)]:
        model += piece(text, score, 1)
    trainer = field(2, field(3, 2) + field(35, True) + field(40, 0) + field(41, 1) + field(42, 2))
    normalizer = field(3, field(1, "identity") + field(3, True) + field(4, False))
    seeds("tokenizer_model", parts(model + trainer + normalizer, "{}", TEXTS[0]), parts(model + trainer, "{}", TEXTS[1]))

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unprintable = iter(range(256, 512))
    letters = [chr(byte) if byte in printable else chr(next(unprintable)) for byte in range(256)]
    tokens = [*letters, "ll", "al", "Ġa", "<|im_start|>", "<|im_end|>"]
    byte_level = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 259 + [3, 3],
        "tokenizer.ggml.merges": ["l l", "a l", "Ġ a"],
        "tokenizer.ggml.bos_token_id": 259,
        "tokenizer.ggml.eos_token_id": 260,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
    }
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", "a", "aa", "▁a"]
    scored = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -1.5, -3.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 4,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    }
    seeds("tokenizer_gguf", parts(gguf(byte_level, {}), TEXTS[0]), parts(gguf(scored, {}), TEXTS[1]))

    templates = [
        json.loads((chat / "tokenizer_config.json").read_text())["chat_template"],
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<<SYS>>' + message['content'].strip() }}"
        "{% elif loop.index0 % 2 == 1 and message.role != 'assistant' %}{{ raise_exception('roles must alternate') }}"
        "{% else %}[{{ message.role | upper }}] {{ message.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
        "{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}"
        "{%- endif -%}{%- endfor -%}{%- for m in messages -%}{%- set c = m.content -%}{%- if '</think>' in c and loop.index0 < ns.last -%}"
        "{%- set c = c.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}<{{ m.role }}>{{ c }}{%- endfor -%}"
        "{%- macro end(x) -%}{{ x | tojson }}{%- endmacro -%}{{ end([1, 'a']) }}",
    ]
    said = ["sBe brief.", "uHallo <|im_start|> Welt ", "a<think>hm\n</think>\nGood.", "uand?"]
    seeds("chat_template", *(parts(template, *said) for template in templates))
    seeds(
        "segments",
        parts("<|im_start|>user\n", "say <|im_end|>", "<|im_end|>\n<|im_", "start|>", "assistant\n"),
        parts("", "<|im_start|", ">"),
    )
    numbers = struct.pack("<dd", -0.25, -1.5)
    written = ["safe", "\n\nunsafe\nS1,S10\n", "unsafe\r\n S2 , S2,S99, hate\nmore", "safely, of course" * 8]
    seeds("verdict", *(numbers + text.encode() for text in written))


# -- Settings, requests, tables --------------------------------------------------------------------------------------------


def settings() -> None:
    seeds(
        "policy",
        b'name = "shop"\n[[categories]]\ncode = "S1"\nname = "Fraud"\ndescription = """\nSelling what is not there.\n"""\n'
        b'[[categories]]\ncode = "S12"\nname = "Insults"\n',
        json.dumps({"name": "x", "categories": [{"code": "S2", "name": "A", "description": "B\nC"}]}).encode(),
    )
    every = (
        '[server]\nlisten = "0.0.0.0:50051"\nmetrics_listen = "off"\ndrain_grace = "5s"\ninsecure_no_auth = true\n'
        '[auth]\nkeys_file = "keys.toml"\n[engine]\nkv_memory = "1GiB"\nprecision = "bf16"\ntenant_weights = { a = 2 }\n'
        '[models.m]\npath = "/nowhere/m.gguf"\nroles = ["target", "guard"]\nload = "lazy"\n[limits]\nmessages = 10\n'
    )
    seeds(
        "config",
        parts((ROOT / "deploy/babelward.toml").read_bytes(), "BABELWARD_SERVER__LISTEN=127.0.0.1:1\nHOME=/"),
        parts((ROOT / "k8s/base/babelward.toml").read_bytes()),
        parts(every, "BABELWARD_SERVER_LISTEN=[::1]:80"),
        parts('[server]\ninsecure_no_auth = false\nlisten = "[::]:9"\n'),
    )
    digest = hashlib.sha256(b"bw_key").hexdigest()
    keys = (
        f'[[keys]]\nid = "a"\nsha256 = "{digest}"\ntenant = "team"\nscopes = ["score", "classify"]\nexpires = "2027-01-31T00:00:00Z"\n'
        f'[[certificates]]\nid = "b"\ndns = "client.example"\ntenant = "team"\nscopes = ["metrics"]\n'
    )
    # The public key of RFC 8037, appendix A.2.
    jwks = {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k", "use": "sig"}]}
    token = "eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2lzc3VlciIsImF1ZCI6ImJhYmVsd2FyZCIsImV4cCI6OTl9." + "A" * 86
    seeds(
        "credentials",
        parts(keys, "", "Bearer bw_key"),
        parts(keys, json.dumps(jwks), f"bearer {token}"),
    )


def requests() -> None:
    def message(role: int, text: str) -> bytes:
        return field(1, field(1, role) + field(2, text))

    conversation = message(2, "Hallo") + message(3, "Welt")
    policy = field(1, "shop") + field(2, field(1, "S1") + field(2, "Fraud") + field(3, "Lies."))
    sampling = field(1, 0.5) + field(2, 0.9) + field(3, 40) + field(5, 7)
    generate = field(1, "m") + field(2, message(2, "Hallo")) + field(5, sampling) + field(6, field(1, 9) + field(2, "stop"))
    tokens = field(1, "m") + field(4, field(1, bytes([1, 2, 200, 1])))
    classify = field(1, "g") + field(2, conversation) + field(5, policy)
    score = field(1, generate) + field(2, field(1, "g")) + field(3, 2)
    pair = field(2, field(1, "a") + field(2, "Hallo") + field(3, "hello"))
    options = field(1, 2) + field(3, field(1, 32) + field(2, 1)) + field(4, 0.5) + field(5, 3)
    start = field(1, "g") + field(2, conversation) + field(4, policy) + field(5, options)
    timeout = field(4, field(1, 5))
    calls = {
        0: [generate, tokens],
        1: [field(1, "i") + field(2, generate) + timeout],
        2: [classify],
        3: [field(1, field(1, "i") + field(2, classify)) * 2],
        4: [field(1, "i") + field(2, classify) + timeout],
        6: [score],
        7: [field(1, "i") + field(2, score)],
        8: [field(1, 10) + field(2, "0")],
        11: [field(1, "m") + field(2, "text")],
        12: [field(1, "m") + field(2, 1)],
        16: [field(1, "q") + pair],
        17: [field(1, start), field(2, "Gr\u00fc\u00dfe."), field(3, b"")],
    }
    seeds("requests", *(bytes([call]) + each for call, several in calls.items() for each in several))


def bodies() -> None:
    """A path of the HTTP port, the end of a line, and a body for it."""
    hello = {"role": "user", "content": "Hallo"}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Welt"}, {"type": "image_url", "image_url": {"url": "x"}}]}
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    conversation = {"messages": [{"role": "ROLE_USER", "content": "Hallo"}, {"role": "ROLE_ASSISTANT", "content": "Welt"}]}
    service = "/babelward.v1."
    each = [
        (f"{service}SafetyService/Classify", {"model": "g", "conversation": conversation, "windows": {"tokens": 128}}),
        (f"{service}SafetyService/BatchClassify", {"items": [{"id": "i", "request": {"conversation": conversation}}]}),
        (f"{service}SafetyService/GuardStream", {"chunk": "SGFsbG8="}),
        (f"{service}GenerationService/Generate", {"text": "a", "sampling": {"seed": "7", "topP": 0.5}, "stopping": {"maxNewTokens": 9}}),
        (f"{service}ScoringService/ScoreStream", {"id": "i", "score": {"generate": {"tokenIds": {"ids": [1, 2]}}}, "timeout": "1.5s"}),
        ("/grpc.health.v1.Health/Check", {"service": "babelward.v1.SafetyService"}),
        ("/v1/moderations", {"model": "omni-moderation-latest", "input": ["Hallo", "Welt"]}),
        ("/v1/moderations", {"input": answer["content"][:1], "babelward": {"policy": "p", "category_probabilities": True}}),
        ("/v1/chat/completions", {"messages": [hello, answer | {"content": "b", "tool_calls": calls}], "max_tokens": 5, "stop": "x"}),
        ("/v1/chat/completions", {"messages": [hello], "stream": True, "stream_options": {"include_usage": True}, "logprobs": True}),
        ("/v1/completions", {"prompt": "a", "logprobs": 2, "temperature": 0, "seed": 3, "babelward": {"guard": "g"}}),
        ("/beta/litellm_basic_guardrail_api", {"input_type": "request", "texts": ["a"], "structured_messages": [hello, answer]}),
        ("/beta/litellm_basic_guardrail_api", {"input_type": "response", "texts": ["a", ""], "tool_calls": calls, "images": ["x"]}),
        ("/api/v1/text/contents", {"contents": ["Hallo", ""], "detector_params": {"threshold": 0.5}}),
        ("/api/v1/text/chat", {"messages": [hello]}),
        ("/api/v1/text/generation", {"prompt": "a", "generated_text": "b"}),
        ("/request", {"body": {"messages": [hello]}}),
        ("/response", {"body": {"choices": [{"message": {"role": "assistant", "content": "b"}}]}}),
        ("/v1/checks", {"messages": [hello, answer], "guardrails": {"config_id": "g", "rail_types": ["input"], "context": {}}}),
        ("/v1/guardrail/checks", {"model": "m", "messages": [hello], "guardrails": {"config_id": "g"}}),
    ]
    seeds("bodies", *(f"{path}\n{json.dumps(body)}".encode() for path, body in each))


def tables() -> None:
    rows = [
        {"id": 7, "category": "crime_tax", "en": "a", "it": "b"},
        {"id": "x", "category": "hate_lgbtq+", "en": "### Instruction:\nc\n### Response:\n", "it": "d"},
    ]
    long = [
        {"id": 7, "language": "en", "category": "crime_tax", "prompt": "a", "attack_type": "suffix"},
        {"id": 7, "language": "de", "category": "crime_tax", "prompt": "b", "translator": "t", "attack_type": "suffix"},
    ]
    verdicts = [
        {"id": 7, "language": "en", "category": "crime_tax", "prompt": "a", "model": "m", "response": "r", "is_safe": True},
        {"id": 7, "language": "de", "category": "crime_tax", "prompt": "b", "model": "m", "response": "r", "label": "unsafe"},
    ]

    def lines(table: list) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in table).encode()

    parquet = sorted((ROOT / "tests/golden/tables").glob("*.parquet"))
    seeds(
        "rows",
        b"\x00" + lines(rows),
        b"\x00" + lines(long),
        b"\x00" + lines(verdicts),
        b"\x01" + json.dumps(rows).encode(),
        b'\x02\xef\xbb\xbfid,category,en,de\r\n7,crime_tax,"a ""b""\n",c\r\n',
        b"\x03id\tlanguage\tcategory\tprompt\n7\ten\tcrime_tax\ta\n",
        *(b"\x04" + path.read_bytes() for path in parquet),
    )

    def journal(entries: list) -> bytes:
        texts = [json.dumps(entry).encode() for entry in entries]
        return b"".join(hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n" for text in texts)

    whole = journal([{"run": {"plan": "p", "seeds": 1, "guards": 1}}, {"item": {"slot": 0}}, "x"])
    seeds("journal", whole, whole[:-5], whole[:90] + b"!" + whole[91:], b"")


def main() -> None:
    models()
    tokenizers()
    settings()
    requests()
    bodies()
    tables()
    size = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    print(f"{size // 1024} KiB in {CORPUS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
