#!/usr/bin/env python3
"""benches/growth: what it computes and skips, with a stand-in for the engine, and its loads against the real server with a
tiny model. The server is that of the binary that BENCH_BINARY names, or else of the one that cargo has built for release;
without any, its tests are skipped. Nothing is drawn, so that no matplotlib is needed."""

import dataclasses
import os
import pathlib
import stat
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "benches"))

from gpu_lib import guard_folder  # noqa: E402
from growth_lib import context, curves, prefixes, queued, server, throughput  # noqa: E402
from side_by_side_lib import machine  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = pathlib.Path(os.environ.get("BENCH_BINARY", TARGET / "release" / "babelward")).absolute()
needs_binary = unittest.skipUnless(os.access(BINARY, os.X_OK), f"there is no {BINARY}")

# Speeds tell what was asked for: 1e6 / (prompt tokens + sequences) microseconds a token, and ten times that in decode.
STAND_IN = """#!{python}
import json, sys
option = lambda name: int(sys.argv[sys.argv.index(name) + 1])
time = option("--prompt-tokens") + option("--sequences")
tokens = option("--prompt-tokens") + option("--decode-tokens")
print(json.dumps({{"window": 4096, "kv_bytes": 1024 * tokens, "prefill_tok_s": 1e6 / time, "decode_tok_s": 1e5 / time}}))
"""

METRICS = """# HELP babelward_step_seconds A forward pass.
# TYPE babelward_step_seconds histogram
babelward_step_seconds_bucket{model="m",le="0.1"} 3
babelward_step_seconds_sum{model="m"} 0.25
babelward_kv_blocks{model="m",state="free"} 7
babelward_kv_blocks{model="m",state="held"} 2
babelward_requests_total{method="a.B/C",code="OK"} 5
babelward_requests_total{method="a.B/C",code="INTERNAL"} 1
babelward_connections 3
"""


class Growth(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.lines = []
        self.setup = machine.Setup(ROOT, BINARY, pathlib.Path(), self.folder, 1, "int8")

    def test_metrics_are_summed_by_their_labels(self):
        metrics = server.Metrics(METRICS)
        self.assertEqual(metrics.total("babelward_step_seconds_sum"), 0.25)
        self.assertEqual(metrics.total("babelward_kv_blocks"), 9)
        self.assertEqual(metrics.total("babelward_kv_blocks", state="held"), 2)
        self.assertEqual(metrics.total("babelward_requests_total", method="a.B/C", code="OK"), 5)
        self.assertEqual(metrics.total("babelward_connections"), 3)
        self.assertEqual(metrics.total("babelward_steps_total"), 0)

    def test_scheduling_is_unknown_where_a_program_does_not_tell_it(self):
        old = server.Metrics(METRICS)
        self.assertIsNone(old.scheduling(old))
        new = server.Metrics(METRICS + f'{server.SCHEDULING_SECONDS}{{model="m"}} 0.5\n')
        # Nothing was scheduled before the first reading.
        self.assertEqual(new.scheduling(old), 0.5)
        self.assertEqual(new.scheduling(new), 0)

    def test_points_are_chosen_by_their_values_and_in_order(self):
        lines = [{"n": 3, "y": 9.0, "k": "a"}, {"n": 1, "y": 7.0, "k": "a"}, {"n": 2, "k": "a"}, {"n": 0, "y": 1.0, "k": "b"}]
        self.assertEqual(curves.of(lines, "n", "y", k="a"), [(1, 7.0), (3, 9.0)])

    def test_a_run_holds_whole_blocks(self):
        self.assertEqual(context.Run(128, 8, shared=False).kv_tokens(), 8 * 160)
        # 64 new tokens and 32 decoded ones behind what is shared.
        self.assertEqual(context.Run(128, 8, shared=True).kv_tokens(), 128 + 8 * 96)

    def test_contexts_beyond_the_window_or_the_budget_are_skipped_with_the_reason(self):
        limits = context.Limits(window=4096, kv_bytes_per_token=1024, budget=16 << 20)
        self.assertIsNone(context.Run(2048, 1, shared=False).why_skipped(limits))
        self.assertEqual(
            context.Run(2048, 8, shared=False).why_skipped(limits),
            "keys and values take 16 MiB, and --kv-budget is 16 MiB",
        )
        self.assertIsNone(context.Run(2048, 32, shared=True).why_skipped(limits))
        self.assertEqual(
            context.Run(4096, 1, shared=False).why_skipped(limits), "the window of the model has 4096 tokens"
        )

    def test_every_context_has_a_line_for_each_phase_or_a_reason(self):
        program = self.folder / "babelward"
        program.write_text(STAND_IN.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        setup = dataclasses.replace(self.setup, ours=program)
        context.measure(setup, "dummy:tiny", 64 << 20, 1, self.lines.append)
        skipped = [line for line in self.lines if "skipped" in line]
        # 4096 tokens and more are beyond the window: three contexts, three numbers, shared or not. 32 contexts of 2048 tokens are
        # beyond the budget.
        self.assertEqual(len(skipped), 3 * 3 * 2 + 1)
        measured = [line for line in self.lines if "skipped" not in line]
        runs = len(context.CONTEXTS) * len(context.SEQUENCES) * 2 - len(skipped)
        # Those that share have prefill too.
        self.assertEqual(len(measured), runs + 5 * 3)
        (prefill,) = [
            line
            for line in measured
            if (line["context"], line["sequences"], line["phase"]) == (512, 8, "prefill")
        ]
        self.assertEqual((prefill["shared"], prefill["us_per_token"]), (True, 512 + 64 + 8))
        own = curves.of(self.lines, "context", "us_per_token", phase="decode", shared=False, sequences=32)
        self.assertEqual(own, [(tokens, 10 * (tokens + 32)) for tokens in (128, 256, 512, 1024)])
        first, second = context.panels(self.lines)
        self.assertEqual([len(curve.points) for curve in first.curves], [5, 5, 5])
        self.assertEqual([curve.dashed for curve in second.curves], [False, False, False, True, True])

    def test_throughput_has_a_curve_for_what_is_shared_and_one_for_what_is_not(self):
        lines = [
            {"plot": "streams", **dataclasses.asdict(point), "requests_s": 2.0} for point in throughput.points("streams")
        ]
        (panel,) = throughput.panels("streams", lines)
        self.assertEqual([curve.title for curve in panel.curves], ["prefix shared", "nothing shared"])
        self.assertEqual(panel.curves[0].points, [(streams, 2.0) for streams in throughput.STREAMS])

    @needs_binary
    def test_the_real_engine_is_measured_behind_a_context(self):
        run = context.Run(128, 2, shared=True)
        found = context.engine_bench(self.setup, "dummy:tiny:q8_0", run)
        self.assertEqual((found["sequences"], found["shared_tokens"]), (2, 128))
        limits = context.limits(self.setup, "dummy:tiny:q8_0:512", 1 << 30)
        self.assertEqual(limits.window, 512)
        # Keys and values of 2 layers with 2 heads of 16 numbers, of two bytes each.
        self.assertEqual(limits.kv_bytes_per_token, 2 * 2 * 2 * 16 * 2)

    @needs_binary
    def test_the_real_server_finds_prefixes_and_evicts_others(self):
        prefixes.measure(self.setup, 10, self.lines.append, numbers=(1, 70))
        kinds = [(line["request"], line["requests"]) for line in self.lines]
        self.assertEqual(kinds, [("hit", 10), ("hit", 10), ("evict", 10), ("evict", 10)])
        hits, evictions = self.lines[:2], self.lines[2:]
        self.assertEqual([line["prefixes"] for line in hits], [1, 70])
        self.assertTrue(all(line["prefixes"] >= 60 for line in evictions), evictions)
        self.assertTrue(all(0 < line["quarter_us"] <= line["three_quarters_us"] for line in self.lines))
        whole, _ = prefixes.panels(self.lines)
        self.assertEqual([len(curve.points) for curve in whole.curves], [2, 2])

    @needs_binary
    def test_the_real_server_has_a_queue_of_the_length_that_is_asked_for(self):
        guard_folder.write(self.folder, prefixes.SHAPE)
        queued.measure(self.setup, 0.5, self.lines.append, levels=(8, 300))
        self.assertEqual([line["queued"] for line in self.lines], [8, 300])
        for line in self.lines:
            self.assertGreater(line["steps"], 0)
            self.assertGreater(line["ended"], 0)
            self.assertLessEqual(line["waiting_most"], line["queued"] + line["queued"] // 100 + queued.PLACES)


if __name__ == "__main__":
    unittest.main()
