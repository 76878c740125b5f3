"""Makes a folder that Babelward serves as a quality model from a checkpoint of unbabel-comet (CometKiwi).

    pip install torch safetensors pyyaml transformers
    python scripts/convert_comet.py CHECKPOINT ENCODER OUT [--dtype f32|f16|bf16]

CHECKPOINT  model.ckpt, with hparams.yaml in the folder above its own, as Hugging Face repositories of COMET have it
            (REPOSITORY/checkpoints/model.ckpt and REPOSITORY/hparams.yaml)
ENCODER     folder of the encoder that `pretrained_model` in hparams.yaml names, for its config.json and its tokenizer
            (for wmt22-cometkiwi-da that is microsoft/infoxlm-large, for wmt23-cometkiwi-da-xl facebook/xlm-roberta-xl);
            its weights are not read
OUT         gets config.json, tokenizer.json and model.safetensors, under the checkpoint's own tensor names

A checkpoint is a pickle. It is read with torch's weights_only loader, which runs no code of the file; one that this
loader refuses is only read with --trust-checkpoint.
"""

import argparse
import json
import pathlib
import pickle
import shutil
import sys

import torch
import yaml
from safetensors.torch import save_file

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Heads for word-level error spans, and what training leaves behind.
UNUSED = ("hidden2tag.", "encoder.model.pooler.", "layerwise_attention.dropout_", "sentloss.", "wordloss.")


def refuse(reason):
    sys.exit(f"convert_comet: {reason}")


def load_checkpoint(path, trusted):
    try:
        return torch.load(path, map_location="cpu", weights_only=not trusted, mmap=True)
    except pickle.UnpicklingError as error:
        refuse(f"{path}: {error}\nIf you trust the file, --trust-checkpoint reads it with Python's own unpickler.")


def config_of(hparams, encoder):
    if hparams.get("class_identifier") != "unified_metric":
        refuse(f"class_identifier is {hparams.get('class_identifier')!r}; only unified_metric is supported")
    segments = hparams.get("input_segments", ["mt", "src", "ref"])
    if segments[0] != "mt" or "src" not in segments:
        refuse(f"input_segments are {segments}: the model does not judge a translation by its source")
    return {
        "architectures": ["UnifiedMetric"],
        "encoder": encoder,
        "sent_layer": hparams.get("sent_layer", "mix"),
        # Everything but sparsemax is softmax to unbabel-comet, `sparsemax_patch` too.
        "layer_transformation":
            "sparsemax" if hparams.get("layer_transformation", "sparsemax") == "sparsemax" else "softmax",
        "layer_norm": hparams.get("layer_norm", True),
        "hidden_sizes": hparams.get("hidden_sizes", [3072, 1024]),
        "activations": hparams.get("activations", "Tanh"),
        "final_activation": hparams.get("final_activation"),
        "input_segments": segments,
    }


def convert(checkpoint, encoder, out, dtype="f32", trusted=False):
    hparams_file = checkpoint.resolve().parent.parent / "hparams.yaml"
    hparams = yaml.safe_load(hparams_file.read_text())
    config = config_of(hparams, json.loads((encoder / "config.json").read_text()))
    state = load_checkpoint(checkpoint, trusted)["state_dict"]
    tensors = {
        name: tensor.to(DTYPES[dtype]).contiguous().clone()
        for name, tensor in state.items()
        if not name.startswith(UNUSED) and tensor.is_floating_point()
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    if (encoder / "tokenizer.json").exists():
        shutil.copyfile(encoder / "tokenizer.json", out / "tokenizer.json")
    else:
        from transformers import XLMRobertaTokenizerFast
        XLMRobertaTokenizerFast.from_pretrained(encoder).backend_tokenizer.save(str(out / "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("encoder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--trust-checkpoint", action="store_true")
    args = parser.parse_args()
    convert(args.checkpoint, args.encoder, args.out, args.dtype, args.trust_checkpoint)


if __name__ == "__main__":
    main()
