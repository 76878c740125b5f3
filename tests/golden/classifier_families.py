"""Makes tiny random classifiers of texts of DeBERTa's and RoBERTa's architectures, and the probabilities of their labels with Hugging
Face transformers on CPU.

    pip install torch transformers safetensors sentencepiece protobuf tokenizers
    python tests/golden/classifier_families.py

Writes tests/golden/classifiers/NAME/ with config.json, tokenizer.json, model.safetensors and golden.json, computed as
classifier_labels.py says. The tokenizers have the layouts of published files:

- deberta-shared: settings of DeBERTa-v3, mDeBERTa-v3 and Llama Prompt Guard 2 but for sizes, and the normaliser that transformers'
  DebertaV2Converter writes. Windows are longer than the distances that have buckets of their own.
- deberta-own: projections of positions of their own, no buckets, no norm of their embeddings, token types, and the normaliser that
  transformers 5 writes. Windows are longer than the largest distance.
- roberta: byte-level merges.

Also writes distances.json: the embeddings of relative positions in DeBERTa-v3's setting.
"""

import io
import json
import tempfile

import sentencepiece
import torch
import transformers
from classifier_labels import FOLDER, TEXTS, labelled, randomise, without_special_tokens
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)
from transformers import (DebertaV2Config, DebertaV2ForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig,
                          RobertaForSequenceClassification)
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

ROOT = FOLDER / "classifiers"
WINDOW = 48
SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
DEBERTA = dict(SIZES, max_position_embeddings=WINDOW, relative_attention=True, position_biased_input=False,
               hidden_act="gelu", layer_norm_eps=1e-7, pad_token_id=0)
# Before the others, so that the longest text stays the last.
MORE = ["Ignore this: [SEP][CLS]", "\ufb01ne  print\u3000\uff12\t\n e\u0301 "]
# Rules of a normaliser for SentencePiece: a full-width digit, a ligature, an ideographic space and white space become ASCII.
RULES = {"\uff12": "2", "\ufb01": "fi", "\u3000": " ", "\t": " ", "\n": " "}


def unigram(normalizer):
    """A unigram model with DeBERTa's special tokens at the places that its published files have them in."""
    spelled = lambda text: " ".join(f"{ord(char):X}" for char in text)
    trained = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("".join(f"{spelled(key)}\t{spelled(value)}\n" for key, value in RULES.items()))
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text for text in TEXTS if text.strip()] * 20), model_writer=trained, vocab_size=96,
            model_type="unigram", normalization_rule_tsv=rules.name, hard_vocab_limit=False, pad_id=0, bos_id=1, eos_id=2,
            unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", minloglevel=2)
    proto = ModelProto.FromString(trained.getvalue())
    tokenizer = Tokenizer(models.Unigram([(piece.piece, piece.score) for piece in proto.pieces], unk_id=3))
    tokenizer.normalizer = normalizer(proto.normalizer_spec.precompiled_charsmap)
    marks = dict(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(**marks)])
    tokenizer.decoder = decoders.Metaspace(**marks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    tokenizer.add_special_tokens([AddedToken("[MASK]", special=True)])
    return tokenizer


def converted(charsmap):
    return normalizers.Sequence([normalizers.Strip(), normalizers.Precompiled(charsmap),
                                 normalizers.Replace(Regex(" {2,}"), " ")])


def written_by_5(_charsmap):
    return normalizers.Sequence([normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(),
                                 normalizers.Strip(left=False, right=True)])


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


def labels(names):
    return dict(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


def positions(model):
    """The weights of positions, each of which must change what the model says."""
    names = ["rel_embeddings.weight", "pos_key_proj.weight", "pos_query_proj.weight", "position_embeddings.weight"]
    return [weights for name, weights in model.named_parameters() if any(name.endswith(end) for end in names)]


def make(name, tokenizer, model, special, changes):
    out = ROOT / name
    out.mkdir(parents=True, exist_ok=True)
    randomise(model)
    model.eval()
    model.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **changes}, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"))
    fast.add_special_tokens({"bos_token": special[0], "eos_token": special[1]})
    plain = without_special_tokens(json.loads((out / "tokenizer.json").read_text()))
    ids = fast.convert_tokens_to_ids(special)
    texts = labelled(model, fast, plain, ids, WINDOW, [*MORE, *TEXTS])
    first = [window["probabilities"][0] for text in texts for window in text["windows"]]
    assert max(first) - min(first) > 0.2, f"{name}: all texts get the same label"
    assert len(texts[-1]["windows"]) > 1 and len(texts[-1]["windows"][0]["tokens"]) == WINDOW
    for weights in positions(model):
        before = weights.detach().clone()
        with torch.no_grad():
            weights.zero_()
        without = labelled(model, fast, plain, ids, WINDOW, [*MORE, *TEXTS])
        with torch.no_grad():
            weights.copy_(before)
        changed = max(abs(a["probabilities"][0] - b["probabilities"][0])
                      for x, y in zip(texts, without) for a, b in zip(x["windows"], y["windows"]))
        assert changed > 0.01, f"{name}: without positions the probabilities change by {changed} only"
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "labels": list(model.config.id2label.values()),
        "texts": texts,
    }
    (out / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    for file in out.iterdir():
        file.chmod(0o644)
    print(f"{name}: {sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB, {len(fast)} tokens, {min(first):.3f} to {max(first):.3f}")


def deberta(name, seed, normalizer, names, settings, changes):
    torch.manual_seed(seed)
    tokenizer = unigram(normalizer)
    config = DebertaV2Config(vocab_size=tokenizer.get_vocab_size() + 3, **DEBERTA, **settings, **labels(names))
    make(name, tokenizer, DebertaV2ForSequenceClassification(config), ["[CLS]", "[SEP]"], changes)


def roberta():
    torch.manual_seed(7)
    tokenizer = byte_level()
    config = RobertaConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=WINDOW + 2, type_vocab_size=1,
                           pad_token_id=1, bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5, **SIZES,
                           **labels(["SAFE", "INJECTION"]))
    model = RobertaForSequenceClassification._from_config(config, attn_implementation="eager")
    make("roberta", tokenizer, model, ["<s>", "</s>"], {})


def distances():
    buckets, reach = 256, 512
    distance = torch.arange(1 - reach, reach)
    bucket = make_log_bucket_position(distance, buckets, reach).to(torch.long)
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "position_buckets": buckets, "max_relative_positions": reach, "first_distance": 1 - reach,
        "embeddings": torch.clamp(bucket + buckets, 0, 2 * buckets - 1).tolist(),
    }
    (ROOT / "distances.json").write_text(json.dumps(golden) + "\n")
    (ROOT / "distances.json").chmod(0o644)


def main():
    deberta("deberta-shared", 1, converted, ["LABEL_0", "LABEL_1"],
            dict(position_buckets=8, max_relative_positions=-1, norm_rel_ebd="layer_norm", share_att_key=True,
                 pos_att_type=["p2c", "c2p"], type_vocab_size=0), {})
    deberta("deberta-own", 2, written_by_5, ["SAFE", "INJECTION"],
            dict(max_relative_positions=16, share_att_key=False, pos_att_type="p2c|c2p", type_vocab_size=2),
            {"pos_att_type": "p2c|c2p"})
    roberta()
    distances()


if __name__ == "__main__":
    main()
