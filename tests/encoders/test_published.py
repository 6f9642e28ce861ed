"""Published models give published figures: for people with a network, `make verify-models`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from scripts import verify_models
from scripts.verify_models import PUBLISHED, SAME_WEIGHTS, Published, check
from text_image_similarity.encoders.names import ALIASES

NAMES = sorted({one.model for one in PUBLISHED} | {one for one, _ in SAME_WEIGHTS})


@pytest.mark.network
@pytest.mark.parametrize("model", NAMES)
def test_published_figures(model: str) -> None:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=4).close()
    except OSError as exc:
        pytest.skip(f"the model hub cannot be reached: {exc}")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "XDG_CACHE_HOME")
    }
    done = subprocess.run([sys.executable, "-m", "scripts.verify_models", model], env=environment, check=False)
    assert done.returncode == 0


def test_every_alias_is_verified() -> None:
    assert set(ALIASES) <= set(NAMES)


@pytest.mark.parametrize(("cosine", "right"), [(0.245701, True), (0.2452, False)])
def test_the_comparison_sees_a_difference(cosine: float, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        logit_scale, logit_bias = 100.0, None

    monkeypatch.setattr(verify_models, "_cosines", lambda *_: (Encoder(), np.array([cosine, 0.193049])))
    published = Published("fast", "x", ("a", "b"), (24.5701, 19.3049), "logits", 0.02, "nobody")
    assert (check(published) is None) == right
