"""Converts the tiny checkpoints of model_logits.py to GGUF with llama.cpp's own converter.

    pip install torch transformers safetensors gguf
    python tests/golden/model_gguf.py LLAMA_CPP [NAME ...]

LLAMA_CPP is a checkout of https://github.com/ggml-org/llama.cpp (tag b11434; granite's file is by that of
commit 0c1e570). Writes
tests/golden/models/NAME/model.gguf: keys, tensor names, the order of rows and what is added to norms are the
converter's. The checkpoints have no vocabulary, so none is written, but for the number of tokens that Gemma 3's
conversion asks for.
"""

import json
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent / "models"
# One checkpoint of each architecture. Mistral's is `llama`, whose files do not have its window.
NAMES = ["llama3-rope-tied-bf16", "qwen2", "qwen3", "gemma2", "gemma3", "phi3-longrope", "cohere", "cohere2",
         "gpt-bigcode", "granite"]


def convert(name):
    from conversion import ModelType, get_model_architecture, get_model_class
    from conversion.base import ModelBase
    import gguf

    source = ROOT / name
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = json.loads((source / "config.json").read_text())
        # Published files of this family have it; transformers no longer writes it.
        config.setdefault("rotary_pct", 1.0)
        (folder / "config.json").write_text(json.dumps(config))
        for file in source.glob("*.safetensors*"):
            (folder / file.name).symlink_to(file.resolve())
        vocabulary = {f"t{index}": index for index in range(config["vocab_size"])}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
        hparams = ModelBase.load_hparams(folder, False)
        kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
        kind.set_vocab = kind._set_vocab_none
        out = source / "model.gguf"
        kind(folder, gguf.LlamaFileType.MOSTLY_BF16, out, model_name=name).write()
        print(f"{name}: {out.stat().st_size // 1024} KiB")


def main():
    checkout = pathlib.Path(sys.argv[1])
    sys.path[:0] = [str(checkout), str(checkout / "gguf-py")]
    for name in sys.argv[2:] or NAMES:
        convert(name)


if __name__ == "__main__":
    main()
