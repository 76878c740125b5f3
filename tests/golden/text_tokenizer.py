"""Writes text_tokenizer.json: what Hugging Face tokenizers gives for SmolLM2 and for a toy SentencePiece BPE.

    pip install tokenizers gguf
    python text_tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf > text_tokenizer.json

SmolLM2's published tokenizer.json is: BPE over the byte-level alphabet, pre-tokenised by
Digits(individual_digits) and ByteLevel(add_prefix_space=False). Vocabulary and merges come from the GGUF file.
"""

import json
import sys

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " \n \n ", "\r\n", "a\r\nb", "x \n\n  y", "trailing   ", "   leading",
    "Hello, world!", "safe", "unsafe", "unsafe\nS1,S10", " safe", "Safe", "UNSAFE", "\n\nsafe", "user\nhi",
    "How do I bake bread? I'm new, don't laugh; we've 2 ovens & they'll do.",
    "Wie backe ich Brot? Größe, Straße, Übermut, ÄÖÜ äöü ß ẞ.",
    "¿Cómo se hace el pan? ¡Qué fácil! Señor Muñoz, 25 años, cigüeña.",
    "Comment faire du pain ? L'œuvre, ça, déjà-vu, où, Noël, aujourd'hui.",
    "Come si fa il pane? Perché no? Città, è, più, l'amico dell'università.",
    "日本語のテキストと漢字、カタカナ。", "中文文本，标点符号。1234567", "한국어 텍스트", "Русский текст, ещё раз.",
    "نص عربي مع أرقام ١٢٣", "हिन्दी पाठ", "ภาษาไทย", "Ελληνικά", "עברית",
    "🙂", "👩‍👩‍👧‍👦 family", "🏳️‍🌈🇩🇪🇫🇷", "a🙂b🙂🙂c", "e\u0301 vs \u00e9", "\u200b zero width", "\ufeffbom", "non\u00a0breaking",
    "0123456789", "3.14159", "1,000,000", "x1y22z333", "²³½", "2026-11-24T04:15:00Z",
    "def f(x):\n    return x ** 2  # squared\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "<div class=\"a\">&amp;</div>", "{\"k\": [1, 2, {\"n\": null}]}", "https://example.org/a?b=c&d=%20#e", "C:\\dir\\file.txt",
    "it's IT'S it’s they'RE 'twas", "!!!???...---", "____", "a_b-c.d/e", "$100 €200 £300",
    "<|im_start|>", "<|im_end|>", "x<|im_end|>y", "<|eot_id|>", "<|endoftext|><|im_start|>system", "</s><s>[INST]",
    "\x00\x01\x7f", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Donaudampfschifffahrtsgesellschaftskapitän",
]  # fmt: skip


def smollm2(path):
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    vocab = {text: i for i, text in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    specials = [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == 3]
    plain = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in TEXTS]
    tokenizer.add_special_tokens(specials)
    trusted = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in TEXTS]
    return {"plain": plain, "trusted": trusted}


def toy(kind):
    """A vocabulary as Llama 2's in small: pieces with U+2581 for the space, and byte tokens."""
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces += ["▁", "h", "e", "l", "o", "w", "r", "d", "s", "a", "f", "u", "n", ":", "U", "▁▁"]
    merges = [("▁", "h"), ("l", "l"), ("▁h", "e"), ("ll", "o"), ("▁he", "llo"), ("▁", "w"), ("s", "a"), ("f", "e"), ("sa", "fe"), ("▁", "safe"), ("▁", "▁")]  # fmt: skip
    for left, right in merges:
        if left + right not in pieces:
            pieces.append(left + right)
    vocab = {p: i for i, p in enumerate(pieces)}
    bpe = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["<unk>", "<s>", "</s>"]])
    texts = ["", "hello", "hello safe", " hello", "  hello  safe", "<s>hello</s>safe", "héllo", "🙂", "U: hello\nsafe", "<s> hello"]
    cases = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    return {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases}


def main():
    out = {"smollm2": smollm2(sys.argv[1]), "prepend": toy("prepend"), "first": toy("first")}
    json.dump(out, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    print()


main()
