"""Draws docs/picture.png: a pre-norm attention block, its axes coloured by the group that moves them."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STREAM, HEADS, QK, V, MLP, FIXED = "#4477AA", "#EE6677", "#CCBB44", "#228833", "#AA3377", "#BBBBBB"
#: name, x, y, the groups along its dimensions
BOXES = [
    ("input", 0.4, 2.0, [FIXED]),
    ("embed\n(d, in)", 1.9, 2.0, [STREAM, FIXED]),
    ("norm\n(d)", 3.5, 1.0, [STREAM]),
    ("q, k\n(h·e, d)", 5.1, 1.55, [HEADS, QK, STREAM]),
    ("v\n(h·f, d)", 5.1, 0.35, [HEADS, V, STREAM]),
    ("attention\n(b, h, t, f)", 6.9, 1.0, [HEADS, V]),
    ("out\n(d, h·f)", 8.6, 1.0, [STREAM, HEADS, V]),
    ("+", 9.9, 2.0, [STREAM]),
    ("MLP up\n(m, d)", 11.2, 1.0, [MLP, STREAM]),
    ("MLP down\n(d, m)", 12.8, 1.0, [STREAM, MLP]),
    ("+", 14.0, 2.0, [STREAM]),
    ("head\n(out, d)", 15.3, 2.0, [FIXED, STREAM]),
]
ARROWS = [(0, 1), (1, 2), (2, 3), (2, 4), (3, 5), (4, 5), (5, 6), (6, 7), (1, 7), (7, 8), (8, 9), (9, 10), (7, 10), (10, 11)]
LEGEND = [
    (STREAM, "residual stream: d!"),
    (HEADS, "heads: h!"),
    (QK, "query-key dims, per head: (e!)^h"),
    (V, "value dims, per head: (f!)^h"),
    (MLP, "hidden units: m!"),
    (FIXED, "pinned: inputs and outputs"),
]


def main() -> None:
    figure, axes = plt.subplots(figsize=(13, 3.7), dpi=120)
    for a, b in ARROWS:
        start, end = BOXES[a], BOXES[b]
        style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "#555555", "lw": 1.1, "shrinkA": 27, "shrinkB": 27}
        axes.add_patch(FancyArrowPatch((start[1], start[2]), (end[1], end[2]), **style))
    for name, x, y, groups in BOXES:
        width = 0.6 if name == "+" else 1.16
        axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.3), width, 0.6, "round,pad=0.02", fc="white", ec="#333333"))
        axes.text(x, y + 0.06, name, ha="center", va="center", fontsize=8)
        for k, color in enumerate(groups):
            left = x - width / 2 + k * width / len(groups)
            axes.add_patch(plt.Rectangle((left, y - 0.3), width / len(groups), 0.1, fc=color, ec="none"))
    for k, (color, text) in enumerate(LEGEND):
        x, y = 1.0 + 5.2 * (k % 3), -0.55 - 0.36 * (k // 3)
        axes.add_patch(plt.Rectangle((x, y - 0.09), 0.3, 0.18, fc=color, ec="none"))
        axes.text(x + 0.42, y, text, va="center", fontsize=8.5)
    axes.text(0, 2.75, "One attention block, found from its ATen ops: each coloured strip is a dimension (or a factor of one)",
              fontsize=9.5)  # fmt: skip
    axes.set(xlim=(-0.4, 16.2), ylim=(-1.2, 3.0))
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("picture.png"), bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
