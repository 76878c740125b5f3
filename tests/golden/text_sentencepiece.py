"""Writes text_sentencepiece.json: what SentencePiece itself gives.

    pip install sentencepiece gguf
    python text_sentencepiece.py "$(python3 ../llama_cpp/fetch.py CACHE)" gemma-3-270m-q4_k_m.gguf > text_sentencepiece.json

First for real vocabularies: the pieces, scores and types of a GGUF file are put back into a model of
SentencePiece's own (greedy.py says where the Gemma file comes from). Then for a small model that is trained here, with user-defined symbols, byte tokens and ties,
and is kept in the output (hexadecimal).
"""

import io
import json
import sys

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2 as proto
from text_texts import TEXTS

LETTERS = "the quick brown fox jumps over the lazy dog and the cat. Der schnelle braune Fuchs springt. Ça va, señor? "


def real(path, prefix=True):
    fields = GGUFReader(path).fields
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    keys = [fields["tokenizer.ggml." + key].contents() for key in ("tokens", "scores", "token_type")]
    for text, score, kind in zip(*keys):
        if kind == proto.ModelProto.SentencePiece.USER_DEFINED:
            # GGUF files have these with plain spaces. Markup is not for content, and on purpose left out here.
            text = text.replace(" ", "▁")
            if text in ("<s>", "</s>", "[multimodal]", "<bbox>", "</bbox>"):
                kind = proto.ModelProto.SentencePiece.UNUSED
        model.pieces.add(piece=text, score=score, type=kind)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return [processor.encode(text) for text in TEXTS]


def trained():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([LETTERS, LETTERS.upper(), "aaaa abab baba 0123 4567"] * 4),
        model_writer=out,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=["▁▁", "▁▁▁", "\n\n", "<table>"],
        control_symbols=["<start_of_turn>"],
        minloglevel=2,
    )
    model = out.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return {"model": model.hex(), "ids": [processor.encode(text) for text in TEXTS]}


def main():
    vocabulary = sys.argv[1] + "/models/ggml-vocab-{}.gguf"
    names = ("llama-spm", "baichuan")
    out = {
        "texts": TEXTS,
        "real": {name: real(vocabulary.format(name)) for name in names},
        "gemma3": real(sys.argv[2], prefix=False),
        "trained": trained(),
    }
    json.dump(out, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    print()


main()
