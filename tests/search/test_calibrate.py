"""What a similarity means in one catalogue: probabilities from judged pairs, at the share that was judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import inline
from tests.support.shop import product, shop
from text_image_similarity import Catalog, Query, Term, UsageError
from text_image_similarity.search import Judgement, meaning


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[tuple[Catalog, list[Judgement]]]:
    """A shop of reds, and judgements that call red only what is very red, one in four."""
    with shop(tmp_path / "c") as catalog:
        catalog.add(product(f"{green:03}", (255, green, 0)) for green in range(0, 256, 5))
        yield catalog, [Judgement(Term("red"), f"{green:03}", green < 65) for green in range(0, 256, 5)]


def test_probabilities_follow_what_was_judged(judged: tuple[Catalog, list[Judgement]], tmp_path: Path) -> None:
    catalog, judgements = judged
    assert catalog.match("red").matches[0].probability is None
    version = catalog.searcher.version
    found = catalog.calibrate(judgements)
    assert catalog.searcher.version > version, "the same query has other results now"
    assert catalog.match("red").matches[0].probability is not None
    assert (found["text"].prevalence, found["text"].left_out) == (0.25, 0)
    with shop(tmp_path / "c") as again:
        matches = again.match(Query("red", top_k=100))
    probabilities = [match.probability or 0 for match in matches]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[0] > 0.7
    assert probabilities[-1] < 0.05
    assert sum(probabilities) / len(probabilities) == pytest.approx(0.25, abs=0.06)


def test_pictures_have_a_calibration_of_their_own(judged: tuple[Catalog, list[Judgement]]) -> None:
    catalog, judgements = judged
    image = Term(image=inline("red"))
    catalog.calibrate([Judgement(image, each.product, each.match) for each in judgements])
    assert catalog.match(Query(image)).matches[0].probability is not None
    assert catalog.match("red").matches[0].probability is None
    assert catalog.match(Query([image, Term("red")])).matches[0].probability is None


def test_judgements_that_cannot_be_used(judged: tuple[Catalog, list[Judgement]]) -> None:
    catalog, judgements = judged
    unknown = Judgement(Term("red"), "nobody", True)
    broken = Judgement(Term(image="data:,x"), "000", True)
    assert catalog.calibrate([*judgements, unknown, broken])["text"].left_out == 2
    with pytest.raises(UsageError, match="there are no judgements; give some for each kind of query"):
        catalog.calibrate([])
    with pytest.raises(UsageError, match="none of the 2 judgements can be used"):
        catalog.calibrate([unknown, broken])
    with pytest.raises(
        UsageError, match=r"text queries cannot be calibrated: .* at least two matching and two mismatching"
    ):
        catalog.calibrate(judgements[:5])


def test_a_catalogues_model_on_another_computer_is_not_asked_for_a_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_file(path: Path) -> bool:
        raise AssertionError(path)

    monkeypatch.setattr("text_image_similarity.encoders.calibrated.on_network_share", bool)
    monkeypatch.setattr(Path, "is_file", is_file)
    assert meaning.load_calibration("//evil/share/model") is None
