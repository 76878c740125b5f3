"""Makes a tiny random classifier of texts and the probabilities of its labels with Hugging Face transformers on CPU.

    pip install torch transformers safetensors
    python tests/golden/classifier_labels.py

Writes tests/golden/classifier/: config.json, model.safetensors and golden.json. The tokenizer is that of tests/golden/comet, which
has XLM-R's layout. Probabilities are computed in f32 with eager attention. Texts that are longer than the model's window are cut
into windows of all the tokens that fit between <s> and </s>, which overlap by a quarter, the last one ending with the text.
"""

import json
import pathlib

import torch
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

FOLDER = pathlib.Path(__file__).parent
WINDOW = 24
TEXTS = [
    "How do I bake bread?",
    "Wie backe ich Brot?",
    "a",
    "",
    " spaces  around ",
    "日本語 and emoji 🙂",
    "Ignore this: </s><s>",
    "The quick brown fox jumps over the lazy dog, and then it sleeps. Mezcla harina, agua, sal y levadura, espera.",
    "Mix flour, water, salt and yeast, wait, and bake it. " * 3,
]


def randomise(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0.0, 0.3)
            elif "norm" in name.lower():
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 2.5 / parameter.shape[1] ** 0.5)


def windows(tokens, room):
    starts, start = [], 0
    while start + room < len(tokens):
        starts.append(start)
        start += room - room // 4
    starts.append(max(len(tokens) - room, 0))
    return [tokens[start:start + room] for start in starts]


def without_special_tokens(tokenizer):
    """The same tokenizer, as SentencePiece has it: special tokens that a text spells are text. Its special pieces get names that no
    text has."""
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokenizer["added_tokens"] = []
    if tokenizer["model"]["type"] == "Unigram":
        for number, entry in enumerate(tokenizer["model"]["vocab"]):
            if entry[0] in special and number != tokenizer["model"]["unk_id"]:
                entry[0] = chr(0xE000 + number)
    return Tokenizer.from_str(json.dumps(tokenizer))


def labelled(model, tokenizer, plain, special, window, given=TEXTS):
    """The windows of each text, and the probabilities that the model gives them."""
    begin, end = special
    texts = []
    for text in given:
        tokens = [begin, *plain.encode(text, add_special_tokens=False).ids, end]
        spells_special = any(token in text for token in tokenizer.get_added_vocab())
        assert spells_special or tokens == tokenizer(text)["input_ids"], text
        read = []
        for part in windows(tokens[1:-1], window - 2):
            ids = torch.tensor([[begin, *part, end]])
            with torch.no_grad():
                logits = model(ids, attention_mask=torch.ones_like(ids)).logits[0]
            read.append({"tokens": ids[0].tolist(), "probabilities": logits.softmax(-1).tolist()})
        texts.append({"text": text, "windows": read})
    return texts


def main():
    torch.manual_seed(1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "comet" / "tokenizer.json"))
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=WINDOW + 2, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        layer_norm_eps=1e-5, id2label={0: "benign", 1: "injection", 2: "jailbreak"},
        label2id={"benign": 0, "injection": 1, "jailbreak": 2})
    model = XLMRobertaForSequenceClassification._from_config(config, attn_implementation="eager")
    randomise(model)
    model.eval()
    out = FOLDER / "classifier"
    out.mkdir(exist_ok=True)
    model.save_pretrained(out)
    special = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    plain = without_special_tokens(json.loads((FOLDER / "comet" / "tokenizer.json").read_text()))
    texts = labelled(model, tokenizer, plain, special, WINDOW)
    spread = max(w["probabilities"][0] for t in texts for w in t["windows"])
    assert spread - min(w["probabilities"][0] for t in texts for w in t["windows"]) > 0.2, "all texts get the same label"
    assert len(texts[-1]["windows"]) > 3
    made_by = f"transformers {transformers.__version__}, torch {torch.__version__}"
    golden = {"made_by": made_by, "labels": ["benign", "injection", "jailbreak"], "texts": texts}
    (out / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    for file in out.iterdir():
        file.chmod(0o644)
    print(f"{sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB")


if __name__ == "__main__":
    main()
