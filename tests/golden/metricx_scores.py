"""Makes tiny random MetricX checkpoints and their scores with transformers' mT5, on CPU and in f32.

    pip install torch transformers safetensors sentencepiece protobuf
    python tests/golden/metricx_scores.py

Writes tests/golden/metricx/: tokenizer.json, which all cases share (a SentencePiece unigram model with mT5's layout and
normaliser, trained on the texts below), buckets.json, and NAME/ with config.json, model.safetensors and golden.json.
The folders come out of scripts/convert_metricx.py. A score is computed as google-research/metricx does: mT5's encoder
reads the text without its end token, its decoder one token of id 0, and the score is the logit of one token
(250089, `<extra_id_10>`, in the real vocabulary), between 0 and 25. The output projection is chosen so that scores fill
that range and leave it at both ends. Each case covers something else; what a case is about (`bites`) must change its
scores when it is taken away, or the script fails.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import sentencepiece
import torch
import transformers
from transformers import AutoTokenizer, MT5Config, MT5Model
from transformers.models.mt5.modeling_mt5 import MT5Attention

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import convert_metricx

ROOT = pathlib.Path(__file__).parent / "metricx"
PAIRS = [
    ("How do I bake bread?", "Wie backe ich Brot?"),
    ("The train leaves at noon.", "Le train part à midi."),
    ("Good morning", "Buongiorno"),
    ("Name three rivers.", "Nomina tre fiumi. " * 24),
    ("ﬁne  print\u3000２０２６", "Kleingedrucktes 2026"),
    ("日本語 and emoji 🙂", "japanisch und Emoji 🙂"),
    ("a", "b"),
    ("", "x"),
    (" spaces  around ", "  Leerzeichen\tdrumherum\n"),
]
SIZES = dict(d_model=16, d_kv=16, num_heads=2, d_ff=24, num_layers=2, num_decoder_layers=3, layer_norm_epsilon=1e-6,
             feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
SPAN = [-3.0, 29.0]
BUCKETS = [(32, 128), (8, 20), (12, 96), (4, 5), (64, 1000)]


class Case:
    def __init__(self, version, bites, dtype="f32", tied=False, **config):
        self.version, self.bites, self.dtype, self.tied, self.config = version, bites, dtype, tied, config


CASES = {
    "v24": Case(24, [dict(relative_attention_num_buckets=16), dict(feed_forward_proj="gated-silu")]),
    "v23-bf16": Case(23, [dict(relative_attention_max_distance=128), dict(layer_norm_epsilon=1e-6)], dtype="bf16",
                     num_layers=1, num_decoder_layers=1, d_kv=32, num_heads=1, relative_attention_num_buckets=8,
                     relative_attention_max_distance=20, layer_norm_epsilon=1e-2),
    "v24-rescaled": Case(24, [], tied=True, num_heads=3, d_model=24, num_decoder_layers=2),
}


def text_of(version, source, translation):
    if version == 23:
        return "candidate: " + translation + " source: " + source
    return "source: " + source + " candidate: " + translation


def make_tokenizer(folder):
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(text_of(24, *pair) for pair in PAIRS) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=140, model_type="unigram",
        normalization_rule_name="nmt_nfkc", character_coverage=0.98, hard_vocab_limit=False, num_threads=1,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "T5Tokenizer", "extra_ids": 0, "additional_special_tokens": None, "pad_token": "<pad>",
        "eos_token": "</s>", "unk_token": "<unk>"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "mt5"}))


def randomise(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif "relative_attention_bias" in name:
                parameter.normal_(0.0, 1.5)
            elif "shared" in name:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, 1.2 / parameter.shape[1] ** 0.5)
        for name, parameter in model.named_parameters():
            # Attention that tells keys apart, whatever the sizes.
            if name.endswith(("Attention.q.weight", "Attention.k.weight")):
                parameter.mul_(0.6)


def hidden(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.zeros((1, 1), dtype=torch.long)
                     ).last_hidden_state[0, 0]


def model_with(case, config, state, **changes):
    model = MT5Model(MT5Config(**{**config, **changes}, attn_implementation="eager")).eval()
    model.load_state_dict({
        # A change of the buckets takes the first of them.
        name: tensor[:changes.get("relative_attention_num_buckets", tensor.shape[0])]
        if "relative_attention_bias" in name else tensor
        for name, tensor in state.items()
    })
    return model


def rows_of(case, model, texts):
    rows = torch.stack([hidden(model, ids) for ids in texts])
    return rows * rows.shape[1] ** -0.5 if case.tied else rows


def make(index, name, case, shared):
    torch.manual_seed(index)
    tokenizer = AutoTokenizer.from_pretrained(shared)
    vocab = len(tokenizer) + 5
    config = {**SIZES, "vocab_size": vocab, **case.config}
    model = MT5Model(MT5Config(**config, attn_implementation="eager")).eval()
    randomise(model)
    model.to(convert_metricx.DTYPES[case.dtype]).to(torch.float32)
    state = model.state_dict()
    texts = [tokenizer(text_of(case.version, *pair)).input_ids for pair in PAIRS]
    assert all(ids[-1] == tokenizer.eos_token_id for ids in texts)
    texts = [ids[:-1] for ids in texts]
    assert max(map(len, texts)) > 140

    rows = rows_of(case, model, texts)
    # Scores along the direction in which the rows differ most, over a bit more than the range.
    direction = torch.linalg.svd(rows - rows.mean(0))[2][0]
    along = rows @ direction
    slope = (SPAN[1] - SPAN[0]) / (along.max() - along.min())
    offset = SPAN[0] - slope * along.min()
    mean = rows.mean(0) - (rows.mean(0) @ direction) * direction
    head = slope * direction + offset * mean / (mean @ mean)
    head = head.to(convert_metricx.DTYPES[case.dtype]).to(torch.float32)
    scores = torch.clamp(rows @ head, 0, 25)
    assert (scores == 0).any() and (scores == 25).any() and ((scores > 0) & (scores < 25)).sum() > 4, scores
    for changes in case.bites:
        changed = torch.clamp(rows_of(case, model_with(case, config, state, **changes), texts) @ head, 0, 25)
        assert (changed - scores).abs().max() > 0.2, f"{name}: {changes} changes nothing: {changed - scores}"

    token = vocab - 3
    lm_head = torch.randn(vocab, config["d_model"])
    lm_head[token] = head
    folder = shared / name
    folder.mkdir()
    torch.save({**state, "lm_head.weight": lm_head}, folder / "pytorch_model.bin")
    written = {"model_type": "mt5", "architectures": ["MT5ForRegression"], **config,
               "tie_word_embeddings": case.tied, "metricx_score_token_id": token}
    (folder / "config.json").write_text(json.dumps(written))
    out = ROOT / name
    convert_metricx.convert(folder, shared, out, case.version, case.dtype)
    shutil.move(out / "tokenizer.json", ROOT / "tokenizer.json")
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "pairs": [
            {"source": source, "translation": translation, "score": score, "tokens": tokens}
            for (source, translation), score, tokens in zip(PAIRS, scores.tolist(), texts)
        ],
    }
    (out / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    size = sum(p.stat().st_size for p in out.iterdir()) // 1024
    steep = head.norm() * rows.norm(dim=1).mean() / 25
    print(f"{name}: {size} KiB, steepness {steep:.1f}, scores {[round(s, 2) for s in scores.tolist()]}")


def buckets():
    distances = list(range(-1100, 1101))
    return [
        {"buckets": count, "max_distance": most, "first": distances[0], "bucket": MT5Attention._relative_position_bucket(
            torch.tensor(distances), bidirectional=True, num_buckets=count, max_distance=most).tolist()}
        for count, most in BUCKETS
    ]


def main():
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        shared = pathlib.Path(temporary)
        make_tokenizer(shared)
        for index, (name, case) in enumerate(CASES.items()):
            make(index, name, case, shared)
    (ROOT / "buckets.json").write_text(json.dumps(buckets(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
