#!/usr/bin/env python3
"""benches/side_by_side with stand-ins for both sides' programs: what it asks of them, what it makes of their answers, and the
models that it makes up.

Made-up models are also loaded by the real binary: by the one that BENCH_BINARY names, or else by the one that cargo has built
for release. Without any that test is skipped."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import stat
import statistics
import struct
import subprocess
import sys
import tempfile
import types
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "benches"))

from side_by_side_lib import dummies, engine, machine, openvino_peer  # noqa: E402
from side_by_side_lib.gguf_file import GgufFile  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = pathlib.Path(os.environ.get("BENCH_BINARY", TARGET / "release" / "babelward"))

# Logs what it is given, and answers as either side's programs do. `peak` MiB of it are resident for a moment.
STAND_IN = """#!{python}
import json, pathlib, sys
given = sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps([pathlib.Path(sys.argv[0]).name, *given]), file=log)
if "--help" in given:
    print({help!r})
    sys.exit()
bytearray({peak} << 20)
option = lambda name: int(given[given.index(name) + 1])
if "engine-bench" in given:
    count = option("--sequences")
    print(json.dumps({{"prefill_tok_s": 40.0 * option("--prompt-tokens"), "decode_tok_s": 30.0 * count}}))
elif "--output-format" in given:
    print("not JSON")
    print(json.dumps({{"speed_tg": 10.0 * option("-npl")}}))
else:
    print(json.dumps([{{"avg_ts": 10.0 * max(option("-p"), 1)}}]))
"""


def program(name: str) -> types.ModuleType:
    """A script of benches/ as a module."""
    path = str(ROOT / "benches" / name)
    loader = importlib.machinery.SourceFileLoader(name, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


side_by_side, side_by_side_table = program("side_by_side"), program("side_by_side_table")


class WithStandIns(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.log = self.folder / "log"
        machine.unmapped.cache_clear()
        silent = contextlib.redirect_stderr(io.StringIO())
        silent.__enter__()
        self.addCleanup(silent.__exit__, None, None, None)

    def stand_in(self, name: str, peak: int = 0, options: str = "-lm, --load-mode MODE") -> pathlib.Path:
        path = self.folder / name
        path.write_text(STAND_IN.format(python=sys.executable, log=str(self.log), peak=peak, help=options))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def setup_with(self, ours_peak: int = 0, peer_peak: int = 0) -> machine.Setup:
        ours = self.stand_in("babelward", ours_peak)
        for name in machine.PEER_PROGRAMS:
            self.stand_in(name, peer_peak)
        return machine.Setup(ROOT, ours, self.folder, self.folder / "model.gguf", 3, "mixed")

    def logged(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def given(self, name: str, option: str) -> list[str]:
        """What each call of a program was given for an option."""
        return [call[call.index(option) + 1] for call in self.logged() if call[0] == name and option in call]

    def printed(self, *figures: str) -> list[dict]:
        """The lines that a run with these figures prints."""
        options = types.SimpleNamespace(figures=list(figures), repetitions=2, quick=True, openvino=None, transformers=None)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            side_by_side.compare(self.setup_with(ours_peak=100, peer_peak=300), "tiny", options)
        return [json.loads(line) for line in out.getvalue().splitlines()]


class Figures(WithStandIns):
    def test_names_of_speeds_are_prefill_and_decode_with_any_number(self):
        self.assertEqual(engine.Speed.of("decode_48"), engine.Speed(48, prefill=False))
        self.assertEqual(engine.Speed.of("prefill_2048"), engine.Speed(2048, prefill=True))
        for name in ("decode_0", "decode_", "decode_1x", "decode_-1", "classify_2", "openvino_decode_8", "roofline"):
            self.assertIsNone(engine.Speed.of(name), name)
        self.assertEqual(side_by_side.of_openvino("openvino_decode_48"), "decode_48")
        self.assertEqual(side_by_side.of_openvino("openvino_peak_rss"), "peak_rss")
        for name in ("decode_48", "peak_rss", "openvino_roofline", "openvino_"):
            self.assertIsNone(side_by_side.of_openvino(name), name)

    def test_both_sides_are_given_the_same_counts(self):
        lines = self.printed("prefill_128", "decode_1", "decode_64")
        self.assertEqual([line["name"] for line in lines], ["prefill_128", "decode_1", "decode_64"])
        self.assertEqual([(line["ours"], line["peer"]) for line in lines], [(5120, 1280), (30, 10), (1920, 640)])
        self.assertEqual([line["ratio"] for line in lines], [4, 3, 3])
        about = {(line["model"], line["precision"], line["beside"], line["repetitions"]) for line in lines}
        self.assertEqual(about, {("tiny", "mixed", "llama.cpp", 2)})
        twice = lambda *values: [value for value in values for _ in range(2)]  # noqa: E731
        self.assertEqual(self.given("babelward", "--sequences"), twice("1", "1", "64"))
        self.assertEqual(self.given("babelward", "--prompt-tokens"), twice("128", "64", "64"))
        self.assertEqual(self.given("babelward", "--decode-tokens"), twice("0", "32", "32"))
        self.assertEqual(self.given("llama-bench", "-p"), twice("128", "0"))
        self.assertEqual(self.given("llama-bench", "-n"), twice("0", "32"))
        self.assertEqual(self.given("llama-bench", "-d"), twice("64"))
        self.assertEqual(self.given("llama-batched-bench", "-npl"), twice("64"))
        self.assertEqual(self.given("llama-batched-bench", "-c"), twice(str(64 * 96)))

    def test_memory_of_the_engine_is_the_peak_of_each_process(self):
        (line,) = self.printed("peak_rss_engine")
        # A Python has about ten MiB of its own.
        self.assertAlmostEqual(line["ours"], 110, delta=20)
        self.assertAlmostEqual(line["peer"], 310, delta=20)
        self.assertAlmostEqual(line["ratio"], line["peer"] / line["ours"], places=2)
        self.assertEqual((line["unit"], line["beside"]), ("MiB", "llama.cpp"))
        self.assertEqual(self.given("babelward", "--prompt-tokens"), ["512"] * 2)
        self.assertEqual(self.given("babelward", "--decode-tokens"), ["64"] * 2)
        self.assertEqual(self.given("llama-bench", "-pg"), ["512,64"] * 2)
        self.assertEqual(self.given("llama-bench", "--load-mode"), ["none"] * 2)

    def test_memory_of_whoever_measures_is_not_the_programs(self):
        # Resident until the program has ended.
        held = bytearray(200 << 20)
        self.assertLess(engine.peak_mib([sys.executable, "-c", "pass"]), 50)
        self.assertEqual(len(held), 200 << 20)

    def test_a_program_that_fails_is_told_with_its_words(self):
        with self.assertRaisesRegex(machine.Failed, "ended with 7:\nbecause"):
            engine.peak_mib([sys.executable, "-c", "import sys; print('because'); sys.exit(7)"])

    def test_a_llama_cpp_without_the_option_maps_its_file(self):
        old = self.stand_in("llama-server", options="--no-mmap")
        self.assertEqual(machine.unmapped(old), [])

    def test_openvino_that_cannot_read_a_file_says_why(self):
        setup = self.setup_with()
        python = self.folder / "python"
        python.write_text("#!/bin/sh\necho 'one line' >&2\necho 'no such format' >&2\nexit 1\n")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        self.assertEqual(openvino_peer.why_not(setup, str(python)), "no such format")
        python.write_text("#!/bin/sh\necho '{\"tok_s\": 1.5}'\n")
        self.assertIsNone(openvino_peer.why_not(setup, str(python)))

    def test_an_unknown_figure_is_refused_before_anything_runs(self):
        self.assert_refused("unknown figure decode_0", {"LLAMA_CPP_BIN": "nowhere"}, "--figures", "decode_0")

    def test_a_run_without_its_peer_says_what_it_needs(self):
        self.assert_refused("LLAMA_CPP_BIN is not set", {}, "--quick")

    def assert_refused(self, reason: str, settings: dict[str, str], *arguments: str):
        environment = {name: text for name, text in os.environ.items() if name != "LLAMA_CPP_BIN"} | settings
        command = [sys.executable, ROOT / "benches" / "side_by_side", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn(reason, done.stderr)


def f16(content: bytes, at: int) -> float:
    return struct.unpack_from("<e", content, at)[0]


def weights_of(kind: int, block: bytes) -> list[float]:
    """A block's weights as ggml/src/ggml-quants.c in llama.cpp reads them; the order in the block is left open."""
    if kind == dummies.BF16:
        return [struct.unpack("<f", b"\0\0" + block)[0]]
    if kind == dummies.Q4_0:
        return [f16(block, 0) * (bits - 8) for byte in block[2:] for bits in (byte & 15, byte >> 4)]
    if kind == dummies.Q8_0:
        return [f16(block, 0) * bits for bits in struct.unpack("32b", block[2:])]
    weights = []
    if kind == dummies.Q4_K:
        packed, bits = block[4:16], block[16:]
        for group in range(8):
            if group < 4:
                step, minimum = packed[group] & 63, packed[group + 4] & 63
            else:
                step = packed[group + 4] & 15 | packed[group - 4] >> 6 << 4
                minimum = packed[group + 4] >> 4 | packed[group] >> 6 << 4
            shift = 4 * (group % 2)
            for byte in bits[32 * (group // 2) :][:32]:
                weights.append(f16(block, 0) * step * (byte >> shift & 15) - f16(block, 2) * minimum)
        return weights
    assert kind == dummies.Q6_K
    steps = struct.unpack("16b", block[192:208])
    for at in range(256):
        half, place = divmod(at, 128)
        row, column = divmod(place, 32)
        low = block[64 * half + 32 * (row % 2) + column] >> 4 * (row // 2) & 15
        high = block[128 + 32 * half + column] >> 2 * row & 3
        weights.append(f16(block, 208) * steps[at // 16] * ((low | high << 4) - 32))
    return weights


class MadeUpModels(unittest.TestCase):
    def test_random_weights_are_small_in_every_format(self):
        sizes = {kind: (block.weights, block.size) for kind, block in dummies.BLOCKS.items()} | {dummies.BF16: (1, 2)}
        for kind, (weights, size) in sizes.items():
            with self.subTest(kind=kind):
                out = io.BytesIO()
                tensor = dummies.random_matrix("some", (256, 64), kind)
                tensor.write(out)
                content = out.getvalue()
                self.assertEqual((len(content), tensor.size), (256 * 64 // weights * size,) * 2)
                blocks = [content[at : at + size] for at in range(0, len(content), size)]
                found = [weight for block in blocks for weight in weights_of(kind, block)]
                self.assertEqual(len(found), 256 * 64)
                # Four bits around 8 have a mean of -0.5.
                self.assertAlmostEqual(statistics.mean(found), 0, delta=0.003)
                self.assertAlmostEqual(statistics.pstdev(found), 0.02, delta=0.003)
                again = io.BytesIO()
                dummies.random_matrix("some", (256, 64), kind).write(again)
                self.assertEqual(again.getvalue(), content)

    def test_q4_k_m_gives_six_bits_to_the_layers_that_llama_cpp_gives_them(self):
        # The layers with Q6_K in the Q4_K_M files of Llama 3.1 8B, which has 32 of them.
        known = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
        for name in ("attn_v", "ffn_down"):
            more = {layer for layer in range(32) if dummies.q4_k_m(name, layer, 32) == dummies.Q6_K}
            self.assertEqual(more, known)
            self.assertEqual({layer for layer in range(8) if dummies.q4_k_m(name, layer, 8) == dummies.Q6_K}, {0, 3, 6, 7})
        for name in dummies.LLAMA_8B_QUARTER.matrices().keys() - {"attn_v", "ffn_down"}:
            self.assertEqual({dummies.q4_k_m(name, layer, 32) for layer in range(32)}, {dummies.Q4_K})

    def test_shapes_have_as_many_weights_as_the_models_that_they_stand_for(self):
        def of_layer(shape: dummies.Shape) -> int:
            return sum(inputs * outputs for inputs, outputs in shape.matrices().values())

        # Llama 3.1 8B has 8,030,261,248 parameters and Llama 3.2 1B 1,235,814,400, vectors and vocabulary included.
        large, small = dummies.LLAMA_8B_QUARTER, dummies.LLAMA_1B
        self.assertEqual(32 * (of_layer(large) + 2 * 4096) + 4096 + 2 * 128256 * 4096, 8_030_261_248)
        self.assertEqual(16 * (of_layer(small) + 2 * 2048) + 2048 + 128256 * 2048, 1_235_814_400)
        self.assertEqual((large.head_width, small.head_width), (128, 64))

    def test_a_file_is_read_as_it_was_written(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "tiny.gguf")
            tiny(dummies.Q4_K_M_MIX).write(path)
            read = GgufFile.open(path)
        kinds = {tensor.name: tensor.kind for tensor in read.tensors}
        self.assertEqual(kinds["output.weight"], dummies.Q6_K)
        self.assertEqual(kinds["token_embd.weight"], dummies.Q4_K)
        self.assertEqual([kinds[f"blk.{layer}.ffn_down.weight"] for layer in (0, 1)], [dummies.Q6_K, dummies.Q4_K])
        self.assertEqual(read.get("llama.rope.freq_base"), 500_000)
        self.assertEqual((read.hyperparameter("block_count"), read.kv_values_per_token()), (8, 8 * 2 * 2 * 64))

    @unittest.skipUnless(os.access(BINARY, os.X_OK), f"there is no {BINARY}")
    def test_the_engine_loads_every_mix(self):
        mixes = {"q4_0": dummies.Q4_0_MIX, "q8_0": dummies.Q8_0_MIX, "bf16": dummies.BF16_MIX, "q4_k": dummies.Q4_K_M_MIX}
        for dtype, mix in mixes.items():
            with self.subTest(dtype=dtype), tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "tiny.gguf")
                tiny(mix).write(path)
                command = [BINARY, "engine-bench", "--model", path, "--prompt-tokens", 8, "--decode-tokens", 2]
                said = json.loads(machine.run(command))
                self.assertEqual(said["dtype"], dtype)
                self.assertGreater(said["decode_tok_s"], 0)


def tiny(mix: dummies.Mix) -> GgufFile:
    """A made-up model of a few hundred thousand weights."""
    file = GgufFile({}, [])
    file.set_string("general.architecture", "llama")
    file.set_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    file.set_strings(dummies.TOKENS, [f"token {index}" for index in range(256)])
    return dummies.fill(file, dummies.Shape(8, 256, 512, 4, 2, tied=False), mix)


class Tables(unittest.TestCase):
    FIGURE = {
        "name": "decode_8", "model": "demo", "precision": "mixed", "beside": "llama.cpp", "unit": "tokens/s", "ours": 1234.5,
        "peer": 400.25, "ratio": 3.084, "ours_spread": 0.041, "peer_spread": 0.1, "repetitions": 5,
    }  # fmt: skip
    LIMIT = {
        "name": "roofline_decode_8", "model": "demo", "precision": "mixed", "beside": "llama.cpp", "unit": "GB/s",
        "limit": 35.8, "ours": 14.0, "peer": 9.0, "ours_share": 0.391, "peer_share": 0.25,
    }  # fmt: skip

    def test_a_table_has_both_sides_their_ratio_and_their_spreads(self):
        self.assertEqual(
            side_by_side_table.tables([self.FIGURE, self.LIMIT]),
            "### demo, mixed, beside llama.cpp\n\n"
            "| Figure | Ours | llama.cpp | Ratio | Spread of ours | Spread of the peer |\n"
            "| --- | ---: | ---: | ---: | ---: | ---: |\n"
            "| `decode_8` | 1,234 tokens/s | 400 tokens/s | 3.08 | 4% | 10% |\n\n"
            "### demo, mixed, beside llama.cpp, as shares of the machine's limit\n\n"
            "| Figure | Limit | Ours | llama.cpp |\n"
            "| --- | ---: | ---: | ---: |\n"
            "| `roofline_decode_8` | 35.8 GB/s | 0.39 | 0.25 |",
        )

    def test_what_was_measured_again_replaces_the_first(self):
        again = self.FIGURE | {"ours": 99.44, "ratio": 0.95, "peer_spread": 0.06}
        other = self.FIGURE | {"precision": "int8"}
        text = side_by_side_table.tables([self.FIGURE, other, again])
        self.assertEqual(text.count("`decode_8`"), 2)
        self.assertIn("| `decode_8` | 99.4 tokens/s | 400 tokens/s | 0.95, within the spread | 4% | 6% |", text)
        self.assertLess(text.index("### demo, mixed"), text.index("### demo, int8"))

    def test_what_are_no_lines_is_an_error_and_not_a_table(self):
        command = [sys.executable, ROOT / "benches" / "side_by_side_table"]
        for given, status in ((json.dumps(self.FIGURE), 0), ("{}", 1), ("no JSON", 1)):
            done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout.count("###")), (status, 1 - status), done.stderr)


if __name__ == "__main__":
    unittest.main()
