"""Run examples/quickstart.ipynb and save its outputs; `make docs` runs it."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"


def run() -> nbformat.NotebookNode:
    """Return the notebook with up-to-date outputs, without anything that differs between runs or machines."""
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    metadata = dict(notebook.metadata)
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, resources=folder, record_timing=False).execute()
    notebook.metadata = nbformat.from_dict(metadata)
    return notebook


if __name__ == "__main__":
    nbformat.write(run(), NOTEBOOK)
