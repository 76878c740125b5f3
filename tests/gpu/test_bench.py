#!/usr/bin/env python3
"""benches/gpu with a stand-in for the binary, since neither these tests nor CI have a card."""

import json
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

from gpu_lib import card, profile, report, shapes, steps  # noqa: E402

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
    shapes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (5120, 3072)]
    products = [{{"outputs": o, "inputs": i, "rows": 2048, "flop_s": 7e14}} for o, i in shapes]
    print(json.dumps({{"copy_bytes_s": 4e12, "products": products, "row_bits_agree": True}}))
    sys.exit()
time.sleep({pause})
for n in option("--sequences").split(","):
    print(json.dumps({{"sequences": int(n), "load_s": 1.5, "prefill_tok_s": 40000.0, "decode_tok_s": 200.0 * int(n),
                       "resident_bytes": 17 << 30}}))
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
        found = card.Card("a stand-in", 1 << 34, "90", 13000)
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
        for name in ("libraries", "self_tests", "ceilings", "row_bits", "engine"):
            self.assertTrue(bench.step(name), self.lines[-1])
        self.assertEqual(self.named("NVIDIA driver")["value"], "580")
        prefill = self.named("prefill")
        # 13.96 GFLOP a token at 700 TFLOP/s.
        self.assertAlmostEqual(prefill["limit"], 7e14 / shapes.SHAPES[shapes.GUARD].flop_per_token(), delta=1)
        self.assertAlmostEqual(prefill["share"], 0.798, places=2)
        decode = self.named("decode at 1")
        self.assertAlmostEqual(1000 / decode["limit"], 3.76, places=2)  # ms for 15.0 GB at 4 TB/s
        self.assertEqual(self.named("decode at 256")["value"], 51200.0)
        self.assertIsNone(self.named("decode at 64, no graphs")["goal_share"])
        self.assertAlmostEqual(self.named("classify")["value"], 40000 / 130)
        table = report.table(self.lines)
        self.assertIn("goal 60% reached", table)
        self.assertIn("goal 250 reached", table)

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
        results = [
            {"n_prompt": 512, "avg_ts": 7.0, "model_type": "8B"},
            {"n_prompt": 0, "avg_ts": 3.0, "model_type": "8B"},
        ]
        good.write_text(f"#!/bin/sh\necho '{json.dumps(results)}'\n")
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


if __name__ == "__main__":
    unittest.main()
