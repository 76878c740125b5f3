"""Random blocks of every ggml format that we read, and their values by the `gguf` package.

    pip install gguf numpy
    python tests/golden/block_formats.py

Writes tests/golden/block_formats.json: per format the raw bytes (hex) and the dequantised f32 values.
"""

import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# Where a block keeps its f16 (or f32) scales; random bits there would be NaN.
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.F16: [0]}


def main():
    rng = np.random.default_rng(1)
    cases = {}
    for kind in [T.F32, T.F16, T.BF16, *list(HALVES)[:-1]]:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = 64 if elements == 1 else 4
        if kind in (T.F32, T.BF16):
            values = rng.normal(size=count).astype(np.float32)
            raw = values.view(np.uint8) if kind == T.F32 else (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        else:
            blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
            for at in HALVES[kind]:
                blocks[:, at:at + 2] = rng.normal(size=count).astype(np.float16).view(np.uint8).reshape(count, 2)
            raw = blocks.reshape(-1)
        values = dequantize(raw.reshape(1, -1), kind).astype(np.float32).reshape(-1)
        cases[kind.name.lower()] = {"bytes": raw.tobytes().hex(), "values": [float(v) for v in values]}
    target = pathlib.Path(__file__).parent / "block_formats.json"
    target.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
