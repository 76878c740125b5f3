#!/usr/bin/env python3
"""benches/gpu with a stand-in for the binary, since neither these tests nor CI have a card.

The guard of its server step is also served by the real binary, on the processor: by the one that BENCH_BINARY
names, or else by the one that cargo has built for release. Without any the test is skipped."""

import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import time
import types
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "benches"))

from gpu_lib import card, guard_folder, profile, report, serving, shapes, steps  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = pathlib.Path(os.environ.get("BENCH_BINARY", TARGET / "release" / "babelward"))
# As small as a guard can be: its vocabulary has room for that of guard_folder.py.
TINY = shapes.Shape(2, 64, 128, 4, 2, 16, 2048, True)

STAND_IN = """#!{python}
import json, sys, time
given = sys.argv[1:]
if "doctor" in given:
    checks = [{{"check": "NVIDIA driver", "status": "ok", "found": "580", "fix": None}},
              {{"check": "python", "status": "ok", "found": "3.11", "fix": None}}]
    if "--device" in given:
        name = "self-test of cuda:0: attention"
        checks.append({{"check": name, "status": {self_test!r}, "found": "ran", "fix": "report it"}})
    print(json.dumps(checks))
    sys.exit({self_test!r} == "fail")
option = lambda name: given[given.index(name) + 1]
if "--ceilings" in given:
    shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
    products = [{{"outputs": o, "inputs": i, "rows": 2048, "flop_s": 7e14}} for o, i in shapes]
    print(json.dumps({{"copy_bytes_s": 4e12, "products": products, "row_bits_agree": True}}))
    sys.exit()
if "serve" in given:
    time.sleep({pause})
    print("gRPC     http://127.0.0.1:1", flush=True)
    time.sleep(60)
if "classify" in given:
    usage = {{"prompt_tokens": 333, "cached_prompt_tokens": 208, "completion_tokens": 1}}
    for line in open(option("--items")):
        time.sleep(0.0001)
        print(json.dumps({{"id": "x", "verdict": {{"usage": usage}}}}), flush=True)
    sys.exit()
time.sleep({pause})
for n in option("--sequences").split(","):
    print(json.dumps({{"sequences": int(n), "load_s": 1.5, "prefill_tok_s": 40000.0, "decode_tok_s": 200.0 * int(n),
                       "resident_bytes": 17 << 30, "device_bytes": 20 << 30}}))
"""


class Benchmark(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.lines = []

    def bench(self, self_test: str = "ok", pause: float = 0, **options) -> steps.Bench:
        binary = self.folder / "babelward"
        binary.write_text(STAND_IN.format(python=sys.executable, self_test=self_test, pause=pause))
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        given = {"binary": binary, "device": "cuda:0", "transformers": None, "vllm": None, "llama_cpp": None}
        found = card.Card("a stand-in", 100 << 30, "90", 13000)
        return steps.Bench(
            types.SimpleNamespace(**{**given, **options}), found, self.lines.append, time.monotonic() + 100
        )

    def named(self, name: str) -> dict:
        (line,) = [line for line in self.lines if line["name"] == name and line.get("model") in (None, shapes.GUARD)]
        return line

    def test_without_a_card_it_says_so_and_ends_with_2(self):
        # A driver that is not there: no library of that name can be found in this environment.
        probe = card.PROBE.replace("libcuda.so.1", "libcuda-that-nobody-has.so.1")
        original, card.PROBE = card.PROBE, probe
        self.addCleanup(setattr, card, "PROBE", original)
        with self.assertRaisesRegex(card.CannotRun, "driver is not installed"):
            card.find(0)

    def test_the_command_ends_with_2_where_nothing_can_be_measured(self):
        missing = str(self.folder / "no-binary")
        done = subprocess.run(
            [sys.executable, str(ROOT / "benches" / "gpu"), "--binary", missing, "--device", "cuda:99"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 2)
        self.assertIn("nothing was measured", done.stderr)
        self.assertEqual(done.stdout, "")

    def test_every_step_emits_its_figures(self):
        bench = self.bench()
        for name in ("libraries", "self_tests", "ceilings", "row_bits", "engine", "server"):
            self.assertTrue(bench.step(name), self.lines[-1])
        self.assertEqual(self.named("NVIDIA driver")["value"], "580")
        prefill = self.named("prefill 8 x 512")
        # 13.96 GFLOP a token at 700 TFLOP/s.
        self.assertAlmostEqual(prefill["limit"], 7e14 / shapes.SHAPES[shapes.GUARD].flop_per_token(), delta=1)
        self.assertAlmostEqual(prefill["share"], 0.798, places=2)
        decode = self.named("decode at 1")
        self.assertAlmostEqual(1000 / decode["limit"], 3.76, places=2)  # ms for 15.0 GB at 4 TB/s
        self.assertEqual(self.named("decode at 256")["value"], 51200.0)
        self.assertIsNone(self.named("decode at 64, no graphs")["goal_share"])
        # Of 220 tokens in common, 13 blocks of 16 are found in the cache.
        self.assertAlmostEqual(self.named("classify")["value"], 40000 / 142)
        self.assertEqual(self.named("memory of the card")["value"], 20)
        engine = self.named("engine alone, 333 tokens, 208 of them cached")
        self.assertAlmostEqual(engine["value"], 40000 / 125)
        served = self.named("classify by the server")
        self.assertAlmostEqual(served["share"], served["value"] / engine["value"])
        table = report.table(self.lines)
        self.assertIn("goal 60% reached", table)
        self.assertIn("goal 250 reached", table)

    def test_a_small_card_is_given_fewer_sequences(self):
        bench = self.bench()
        bench.card = card.Card("small", 24 << 30, "89", 13000)
        # 16.1 GB of weights, and 48 MiB of keys and values for each sequence.
        self.assertEqual(bench.fitting(shapes.SHAPES[shapes.GUARD]), (1, 2, 4, 8, 16, 32, 64))
        bench.card = card.Card("smaller", 12 << 30, "86", 13000)
        self.assertFalse(bench.step("engine"))

    def test_the_servers_speed_is_that_of_the_middle(self):
        # A verdict each 10 ms, after a slow beginning and before a slow end.
        times = [index * 1.0 for index in range(10)] + [10 + index * 0.01 for index in range(80)]
        times += [20 + index * 1.0 for index in range(10)]
        self.assertAlmostEqual(serving.speed([(when, {}) for when in times]), 100)

    def test_verdicts_that_are_decoded_are_no_measurement(self):
        usage = {"prompt_tokens": 300, "cached_prompt_tokens": 215, "completion_tokens": 3}
        with self.assertRaisesRegex(serving.Failed, "decoded beyond their first token"):
            serving.work([(0.0, {"verdict": {"usage": usage}})])

    def test_a_server_that_does_not_start_is_ended_at_the_limit(self):
        bench = self.bench(pause=60)
        bench.deadline = time.monotonic() + 1
        self.assertFalse(bench.step("server"))
        self.assertIn("was not ready within", self.lines[-1]["why"])

    def test_a_vocabulary_has_its_words_whole(self):
        tokens, merges = guard_folder.vocabulary()
        self.assertEqual(tokens[0], "safe")
        self.assertEqual(len(tokens), len(set(tokens)))
        known = set(tokens)
        self.assertTrue(all(left in known and right in known and left + right in known for left, right in merges))
        self.assertLess(len(tokens) + len(guard_folder.SPECIAL), TINY.vocabulary)

    def test_weights_are_a_hole_of_the_right_size(self):
        path = self.folder / "model.safetensors"
        guard_folder.write_weights(path, shapes.SHAPES[shapes.GUARD])
        # Matrices, and two norms for each layer and one for all.
        norms = 2 * (2 * 32 + 1) * 4096
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        self.assertEqual(path.stat().st_size, 8 + length + shapes.SHAPES[shapes.GUARD].weight_bytes() + norms)
        self.assertLess(path.stat().st_blocks * 512, 1 << 20)

    @unittest.skipUnless(os.access(BINARY, os.X_OK), f"there is no {BINARY}")
    def test_the_real_server_judges_with_the_guard_by_prompts_alone(self):
        options = types.SimpleNamespace(binary=BINARY, device="cpu")
        limit = time.monotonic() + 100
        found = serving.measure(options, TINY, 200, lambda: limit - time.monotonic())
        self.assertGreater(found["served"], 0)
        self.assertGreater(found["engine"], 0)
        self.assertGreater(found["cached_tokens"], 100)
        self.assertGreater(found["prompt_tokens"], found["cached_tokens"])

    def test_a_missed_goal_is_said(self):
        line = {"step": "engine", "name": "classify", "value": 3.0, "unit": "conversations/s", "goal": 250.0}
        self.assertIn("goal 250 MISSED", report.table([line]))

    def test_a_self_test_that_fails_fails_its_step(self):
        self.assertFalse(self.bench(self_test="fail").step("self_tests"))
        self.assertIn("self-test of cuda:0: attention", self.lines[-1]["why"])

    def test_a_program_that_hangs_is_ended_at_the_limit(self):
        bench = self.bench(pause=60)
        bench.deadline = time.monotonic() + 1
        self.assertFalse(bench.step("engine"))
        self.assertIn("was ended after", self.lines[-1]["why"])

    def test_when_the_budget_is_spent_steps_are_skipped(self):
        bench = self.bench()
        bench.deadline = time.monotonic() - 1
        self.assertTrue(bench.step("engine"))
        self.assertEqual(self.lines[-1]["outcome"], "skipped")

    def test_a_peer_that_fails_does_not_hide_another(self):
        good = self.folder / "llama-bench"
        good.write_text(
            f"#!{sys.executable}\n"
            "import json, sys\n"
            "prompt = int(sys.argv[sys.argv.index('-p') + 1])\n"
            "print(json.dumps([{'n_prompt': prompt, 'avg_ts': 7.0 if prompt else 3.0, 'model_type': '8B'}]))\n"
        )
        good.chmod(0o755)
        bench = self.bench(transformers="/bin/false", llama_cpp=self.folder, gguf=self.folder / "model.gguf")
        self.assertFalse(bench.step("peers"))
        self.assertIn("transformers", self.lines[-1]["why"])
        self.assertEqual([line["value"] for line in self.lines if line.get("peer") == "llama.cpp"], [7.0, 3.0])

    def test_the_table_of_ncu_is_read(self):
        text = (
            '==PROF== Connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
            '"0","attention_whole_128(AttentionArgs)","gpu__time_duration.sum","ns","12,345"\n'
            '"0","attention_whole_128(AttentionArgs)","smsp__other","%","1"\n'
        )
        self.assertEqual(profile.metrics(text), [{"name": "attention_whole_128: time", "value": 12345.0, "unit": "ns"}])

    def test_shapes_cost_what_their_models_do(self):
        guard = shapes.SHAPES[shapes.GUARD]
        self.assertAlmostEqual(guard.flop_per_token() / 1e9, 13.96, places=2)
        self.assertAlmostEqual(guard.bytes_per_step() / 1e9, 15.0, places=1)
        self.assertAlmostEqual(guard.weight_bytes() / 1e9, 16.06, places=2)


if __name__ == "__main__":
    unittest.main()
