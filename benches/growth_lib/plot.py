"""Draws panels of curves as SVG files. Text stays text, and the same points make the same file."""

import pathlib

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth"})
from matplotlib import pyplot, ticker  # noqa: E402

from .curves import Panel  # noqa: E402


def draw(panels: list[Panel], path: pathlib.Path) -> None:
    """Panels beside each other."""
    figure, all_axes = pyplot.subplots(1, len(panels), figsize=(5.5 * len(panels), 3.2), squeeze=False)
    for axes, panel in zip(all_axes[0], panels):
        for curve in panel.curves:
            one(axes, curve)
        if panel.limit is not None:
            axes.axhline(panel.limit, color="black", linestyle=":", linewidth=1, label=f"limit: {panel.limit:g}")
        axes.set_xscale("log", base=2)
        if panel.from_zero:
            axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
        else:
            axes.set_yscale("log", base=2)
        axes.set_xticks(panel.ticks, [f"{tick:,}" for tick in panel.ticks])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        axes.grid(True, linewidth=0.3)
        axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def one(axes, curve) -> None:
    style = {
        "marker": "o",
        "markersize": 4,
        "label": curve.title,
        "color": f"C{curve.colour}",
        "linestyle": "--" if curve.dashed else "-",
    }
    xs, ys = [[point[place] for point in curve.points] for place in (0, 1)]
    spread = None
    if curve.points and len(curve.points[0]) == 4:
        spread = [[y - least for _, y, least, _ in curve.points], [most - y for _, y, _, most in curve.points]]
    axes.errorbar(xs, ys, spread, capsize=3, **style)
