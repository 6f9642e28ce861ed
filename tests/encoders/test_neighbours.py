"""A vector depends on its picture or caption alone, to the last bit: so every door gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from text_image_similarity import Config
from text_image_similarity.encoders import PreparingEncoder, load_encoder

CAPTIONS = [" ".join(["a", "red", "dog", "and", "two", "cats"][: 1 + n % 6] * (1 + n % 17)) for n in range(48)]


@pytest.fixture(
    scope="module",
    params=[
        *("mini onnx", "clip onnx"),
        *(
            pytest.param(name, marks=pytest.mark.extended)
            for name in ("mini torch", "mini int8", "clip int8", "clip torch", "siglip torch")
        ),
    ],
)
def encoder(request: pytest.FixtureRequest) -> PreparingEncoder:
    model, backend = request.param.split()
    folder = "mini" if model == "mini" else request.getfixturevalue(f"tiny_{model}")
    if backend == "int8":
        return load_encoder(Config(model=folder, precision="int8", device="cpu"))
    return load_encoder(Config(model=folder, backend=backend, device="cpu"))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (40, 48, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def alone(encoder: PreparingEncoder, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Every picture and caption encoded by itself."""
    images = np.concatenate([encoder.encode_image([picture]) for picture in pictures])
    return images, np.concatenate([encoder.encode_text([caption]) for caption in CAPTIONS])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_neighbours_move_no_bit(
    encoder: PreparingEncoder, pictures: list[np.ndarray], alone: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(pictures))[: [1, 2, 3, 5, 8, 17, 33, 40][seed]]
    found = encoder.encode_image([pictures[i] for i in some]), encoder.encode_text([CAPTIONS[i] for i in some])
    for vectors, by_themselves in zip(found, alone, strict=True):
        # On a CPU torch multiplies the small matrices of a tiny model in an order that depends on their place.
        by_place = not (encoder.batch_invariant or encoder.info.model == "mini")
        np.testing.assert_allclose(vectors, by_themselves[some], rtol=0, atol=2e-7 if by_place else 0)
