"""Plots of a run: loss, and recall@k in both directions, over the epochs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import whole_file

logger = logging.getLogger("text_image_similarity")
CURVES = ("loss.png", "recall.png")


def draw_curves(history: Sequence[Mapping[str, float]], folder: Path) -> list[Path]:
    """Draw `loss.png` and `recall.png` from the metrics of each epoch, if matplotlib is installed and safe to import.

    Args:
        history: One mapping per epoch, with `epoch` (from 1), `loss` and `..._recall@k` (0..1).
        folder: Folder to write to.

    Returns:
        Paths of the images.
    """
    if Path("matplotlibrc").exists() and "matplotlib" not in sys.modules:
        # matplotlib reads settings from this file, and versions before 3.11 evaluate one of them as Python.
        logger.warning("no curves are drawn, because matplotlibrc in the working folder is not trusted")
        return []
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    epochs = [row["epoch"] for row in history]
    recalls = [name for name in history[0] if "_recall@" in name]
    paths = []
    for file, names, unit in zip(CURVES, (["loss"], recalls), (1.0, 100.0), strict=True):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for name in names:
            way, _, k = name.partition("_recall@")
            label = f"{way.replace('_', ' ')}, recall@{k}" if k else name
            style = "--" if way.startswith("image") else "-"
            axes.plot(epochs, [unit * row[name] for row in history], style, marker=".", label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss" if unit == 1.0 else "validation recall, %")
        axes.grid(alpha=0.3)
        axes.legend()
        with whole_file(folder / file) as partial:
            figure.savefig(partial, format="png", dpi=120)
        paths.append(folder / file)
    return paths
