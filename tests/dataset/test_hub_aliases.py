"""Aliases in the YAML of a data set."""

from __future__ import annotations

import yaml

from text_image_similarity.dataset.hub import _texts


def test_aliases_are_read_once() -> None:
    lines = ["a0: &a0 [x, y]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30))]
    assert sorted(_texts([yaml.safe_load("\n".join(lines))["a29"], {"path": "z"}])) == ["x", "y", "z"]
