"""Makes tiny random CometKiwi checkpoints and their scores with unbabel-comet itself, on CPU and in f32.

    pip install unbabel-comet==2.2.7
    python tests/golden/comet_scores.py

Writes tests/golden/comet/: tokenizer.json, which all cases share (a SentencePiece unigram model with XLM-R's layout
and normaliser, trained on the texts below), and NAME/ with config.json, model.safetensors and golden.json. The
folders come out of scripts/convert_comet.py, from checkpoints as unbabel-comet writes them. Each case covers
something else; what a case is about (`bites`) must change its scores when it is taken away, or the script fails.
"""

import copy
import json
import pathlib
import shutil
import sys
import tempfile

import sentencepiece
import torch
import transformers
import yaml
from comet.models import UnifiedMetric
from transformers import XLMRobertaConfig, XLMRobertaTokenizerFast, XLMRobertaXLConfig

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import convert_comet

ROOT = pathlib.Path(__file__).parent / "comet"
PAIRS = [
    ("How do I bake bread?", "Wie backe ich Brot?"),
    ("The train leaves at noon.", "Le train part à midi."),
    ("Mix flour, water, salt and yeast, wait, and bake it.", "Mezcla harina, agua, sal y levadura, espera y hornéalo."),
    ("Good morning", "Buongiorno"),
    ("Name three rivers.", "Nomina tre fiumi. Nomina tre fiumi. Nomina tre fiumi."),
    ("ﬁne  print\u3000２０２６", "Kleingedrucktes 2026"),
    ("日本語 and emoji 🙂", "japanisch und Emoji 🙂"),
    ("a", "b"),
    (" spaces  around ", "  Leerzeichen\tdrumherum\n"),
    ("The quick brown fox jumps over the lazy dog, and then it sleeps.", "Der schnelle braune Fuchs."),
]
SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
             max_position_embeddings=130, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)
KIWI = dict(sent_layer="mix", layer_norm=False, hidden_sizes=[24, 12], activations="Tanh", final_activation=None)


class Case:
    def __init__(self, encoder, config, bites, **hparams):
        self.encoder, self.config, self.bites, self.hparams = encoder, config, bites, {**KIWI, **hparams}


BASE, XL = "XLM-RoBERTa", "XLM-RoBERTa-XL"
CASES = {
    "softmax": Case(BASE, dict(layer_norm_eps=1e-5), {"layer_transformation": "sparsemax"},
                    layer_transformation="sparsemax_patch"),
    "sparsemax-norm-sigmoid": Case(
        BASE, dict(layer_norm_eps=1e-5), {"layer_transformation": "softmax", "layer_norm": False,
                                          "final_activation": None},
        layer_transformation="sparsemax", layer_norm=True, final_activation="sigmoid"),
    "xl-softmax-norm": Case(XL, dict(layer_norm_eps=1e-5), {"layer_norm": False}, layer_transformation="softmax",
                            layer_norm=True, hidden_sizes=[40]),
    "xl-sparsemax": Case(XL, dict(layer_norm_eps=1e-5), {"layer_transformation": "softmax", "activations": "Sigmoid"},
                         layer_transformation="sparsemax"),
    "one-layer": Case(BASE, dict(layer_norm_eps=1e-12), {"sent_layer": 3}, sent_layer=2,
                      layer_transformation="softmax"),
}


def make_tokenizer(folder):
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(text for pair in PAIRS for text in pair) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "sentencepiece.bpe"), vocab_size=150, model_type="unigram",
        normalization_rule_name="nmt_nfkc", character_coverage=0.98, hard_vocab_limit=False,
        num_threads=1, minloglevel=2)
    tokenizer = XLMRobertaTokenizerFast(vocab_file=str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def randomise(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "scalar_parameters" in name:
                parameter.normal_(0.0, 0.7)
            elif name.endswith("gamma"):
                parameter.fill_(1.3)
            elif name.endswith(".bias"):
                parameter.normal_(0.0, 0.3)
            elif "norm" in name.lower():
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 1.5 / parameter.shape[1] ** 0.5)
            if name.endswith("position_embeddings.weight"):
                # What no token uses is trained by nothing.
                parameter[:2] = 0.0


def metric_of(case, folder, state, **changes):
    sent = {**case.hparams, **changes}
    metric = UnifiedMetric(encoder_model=case.encoder, pretrained_model=str(folder), load_pretrained_weights=False,
                           input_segments=["mt", "src"], dropout=0.1, local_files_only=True, **sent)
    metric.load_state_dict(state, strict=False)
    return metric.eval()


def scores_of(metric, pairs):
    batch = metric.prepare_sample([{"src": source, "mt": translation} for source, translation in pairs], "predict")
    with torch.no_grad():
        return metric(**batch[0]).score.tolist(), batch[0]


def make(index, name, case, shared):
    torch.manual_seed(index)
    folder = shared / name
    shutil.copytree(shared / "tokenizer", folder / "encoder")
    vocab = len(XLMRobertaTokenizerFast.from_pretrained(folder / "encoder"))
    config = {BASE: XLMRobertaConfig, XL: XLMRobertaXLConfig}[case.encoder](vocab_size=vocab, **SIZES, **case.config)
    config.save_pretrained(folder / "encoder")
    metric = UnifiedMetric(encoder_model=case.encoder, pretrained_model=str(folder / "encoder"),
                           load_pretrained_weights=False, input_segments=["mt", "src"], dropout=0.1,
                           local_files_only=True, **case.hparams)
    randomise(metric)
    metric.eval()
    state = copy.deepcopy(metric.state_dict())
    scores, batch = scores_of(metric, PAIRS)
    for key, value in case.bites.items():
        changed, _ = scores_of(metric_of(case, folder / "encoder", state, **{key: value}), PAIRS)
        difference = max(abs(a - b) for a, b in zip(changed, scores))
        assert difference > 0.01, f"{name}: without {key} scores change by {difference} only"
    alone = [scores_of(metric, [pair])[0][0] for pair in PAIRS]
    assert max(abs(a - b) for a, b in zip(alone, scores)) < 1e-5

    (folder / "checkpoints").mkdir()
    torch.save({"state_dict": state}, folder / "checkpoints" / "model.ckpt")
    hparams = {"class_identifier": "unified_metric", "input_segments": ["mt", "src"], **case.hparams}
    (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams))
    out = ROOT / name
    shutil.rmtree(out, ignore_errors=True)
    convert_comet.convert(folder / "checkpoints" / "model.ckpt", folder / "encoder", out)
    (out / "tokenizer.json").unlink()
    golden = {
        "made_by": f"unbabel-comet 2.2.7, transformers {transformers.__version__}, torch {torch.__version__}",
        "pairs": [
            {
                "source": source, "translation": translation, "score": score,
                "tokens": ids[mask].tolist(),
            }
            for (source, translation), score, ids, mask
            in zip(PAIRS, alone, batch["input_ids"], batch["attention_mask"])
        ],
    }
    (out / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    size = sum(p.stat().st_size for p in out.iterdir()) // 1024
    print(f"{name}: {size} KiB, scores {min(alone):.3f} to {max(alone):.3f}")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        shared = pathlib.Path(temporary)
        (shared / "tokenizer").mkdir()
        make_tokenizer(shared / "tokenizer")
        ROOT.mkdir(exist_ok=True)
        shutil.copyfile(shared / "tokenizer" / "tokenizer.json", ROOT / "tokenizer.json")
        for index, (name, case) in enumerate(CASES.items()):
            make(index, name, case, shared)


if __name__ == "__main__":
    main()
