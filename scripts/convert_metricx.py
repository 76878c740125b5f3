"""Makes a folder that Babelward serves as a quality model from a checkpoint of MetricX.

    pip install torch safetensors transformers sentencepiece protobuf
    python scripts/convert_metricx.py CHECKPOINT TOKENIZER OUT --version 23|24 [--dtype f32|f16|bf16]

CHECKPOINT  folder of the checkpoint as Hugging Face has it: config.json, and pytorch_model.bin or model.safetensors,
            in one file or sharded
TOKENIZER   folder of the mT5 tokenizer that goes with it (google/mt5-large, -xl or -xxl), for its tokenizer.json, or for
            its spiece.model with tokenizer_config.json and config.json
OUT         gets config.json, tokenizer.json and model.safetensors, under the checkpoint's own tensor names
--version   which texts the model was trained to read, which its files do not say: 23 for MetricX-23-QE (not MetricX-23,
            which needs a reference), 24 for MetricX-24

The configuration is copied as it is, and `metricx_version` added; it does not go through transformers, which from
version 5 on rewrites `tie_word_embeddings`. Weights in pickles are read with torch's weights_only loader, which runs no
code of the file.
"""

import argparse
import json
import pathlib
import shutil
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# The one embedding under its other names.
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def refuse(reason):
    sys.exit(f"convert_metricx: {reason}")


def weight_files(folder):
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.exists():
            return sorted({folder / file for file in json.loads(index.read_text())["weight_map"].values()})
        if (folder / name).exists():
            return [folder / name]
    refuse(f"{folder}: there is neither model.safetensors nor pytorch_model.bin, nor an index of one")


def tensors_of(file):
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            yield from ((name, opened.get_tensor(name)) for name in opened.keys())
    else:
        yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()


def convert(checkpoint, tokenizer, out, version, dtype=None):
    config = json.loads((checkpoint / "config.json").read_text())
    if config.get("model_type") != "mt5":
        refuse(f"model_type is {config.get('model_type')!r}; MetricX is an mt5")
    tensors = {
        name: (tensor.to(DTYPES[dtype]) if dtype else tensor).contiguous().clone()
        for file in weight_files(checkpoint)
        for name, tensor in tensors_of(file)
        if name not in COPIES
    }
    out.mkdir(parents=True, exist_ok=True)
    config = {**config, "architectures": ["MT5ForRegression"], "metricx_version": version}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    if (tokenizer / "tokenizer.json").exists():
        shutil.copyfile(tokenizer / "tokenizer.json", out / "tokenizer.json")
    else:
        from transformers import AutoTokenizer
        AutoTokenizer.from_pretrained(tokenizer).backend_tokenizer.save(str(out / "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--version", type=int, choices=[23, 24], required=True)
    parser.add_argument("--dtype", choices=DTYPES, help="the checkpoint's own when absent")
    args = parser.parse_args()
    convert(args.checkpoint, args.tokenizer, args.out, args.version, args.dtype)


if __name__ == "__main__":
    main()
