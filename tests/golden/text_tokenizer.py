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
from text_texts import TEXTS


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
