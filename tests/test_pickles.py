"""Nothing here reads a pickle, except in pipes: weights in PyTorch's format are read without running code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

_PICKLERS = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
# Messages between the processes of a run, and a check of what can be sent in them.
_PIPES = {"text_image_similarity/pipeline/feeders/messages.py", "text_image_similarity/pipeline/feeders/plan.py"}
_SAFE = {"weights_only": True, "allow_pickle": False}
_OPEN_CLIPS = "load_checkpoint"  # a function of ours with this name takes only a folder
_NEEDED = {
    "torch.load": "weights_only",
    _OPEN_CLIPS: "weights_only",
    "weights.get_state_dict": "weights_only",
}
_FORBIDDEN = ("read_pickle", "torch.jit.load", "unsafe_load", "yaml.load")
FILES = [
    path
    for folder in ("text_image_similarity", "scripts", "deploy", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def problems(code: str) -> Iterator[str]:
    """Yield what in a program may unpickle something."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (f"import {each.name}" for each in node.names if each.name.partition(".")[0] in _PICKLERS)
        elif isinstance(node, ast.ImportFrom) and not node.level and str(node.module).partition(".")[0] in _PICKLERS:
            yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {each.arg: each.value for each in node.keywords if each.arg}
            yield from (f"{name}({key}=...)" for key in _SAFE.keys() & given if not _is(given[key], _SAFE[key]))
            if name in _NEEDED and _NEEDED[name] not in given and (name != _OPEN_CLIPS or len(node.args) > 1):
                yield f"{name} without {_NEEDED[name]}"
            if name.endswith(_FORBIDDEN):
                yield name


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_nothing_is_unpickled() -> None:
    found = {str(path.relative_to(ROOT)): list(problems(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {name: each for name, each in found.items() if each} == {name: ["import pickle"] for name in _PIPES}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=given)",
        "numpy.load(path, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "yaml.load(text)",
        "load_checkpoint(network, path)",
    ],
)
def test_what_unpickles_is_recognised(code: str) -> None:
    assert list(problems(code))


def test_what_does_not_is_not() -> None:
    code = "from .pickle import a\ntorch.load(path, weights_only=True)\nnumpy.load(path)\nyaml.safe_load(text)"
    assert not list(problems(code))
