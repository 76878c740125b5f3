"""NVIDIA's own tools, where they are installed."""

import csv
import os
import pathlib
import shutil

# What is profiled: our largest kernel and products of cuBLASLt, each with the launches that are left out: those
# of loading (products are measured then), of the first step and of the prompt that is computed before the clock
# starts: each step has 32 layers, with one launch of attention and four products.
KERNELS = {"attention_": 72, "gemm|nvjet|cutlass": 340}
METRICS = {
    "gpu__time_duration.sum": "time",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "share of the card's arithmetic",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "share of the memory's speed",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "share of warps that are active",
}


def tool(name: str) -> "str | None":
    """A program on the path or in a toolkit."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [pathlib.Path(home, "bin") for home in homes if home]
    return shutil.which(name) or next((str(f / name) for f in folders if os.access(f / name, os.X_OK)), None)


def command(program: str, kernel: str, skipped: int, measured: list) -> list:
    chosen = ["--kernel-name", f"regex:{kernel}", "--launch-skip", skipped, "--launch-count", 3]
    options = ["--csv", *chosen, "--metrics", ",".join(METRICS)]
    return [program, *options, *measured]


def metrics(text: str) -> list:
    """The lines of ncu's table, which begins where its header does."""
    rows = text[text.index('"ID"') :].splitlines() if '"ID"' in text else []
    return [
        {
            "name": f"{row['Kernel Name'].split('(')[0]}: {METRICS[row['Metric Name']]}",
            "value": float(row["Metric Value"].replace(",", "")),
            "unit": row["Metric Unit"],
        }
        for row in csv.DictReader(rows)
        if row.get("Metric Name") in METRICS
    ]
