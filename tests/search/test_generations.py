"""A new model beside the old one: built, checked, switched to, rolled back; and nothing that is added meanwhile is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.images import inline, make_png
from tests.support.shop import CountingEncoder, ids, product, shop
from text_image_similarity import Catalog, Config, DatabaseError, ModelInfo, Product, Query, StoppedError, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.similarity import Embeddings


class DimEncoder(CountingEncoder):
    """Another model: it sees the same, in four dimensions, and calls red blue."""

    embed_dim = 4
    fingerprint = "dim"

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(model="dim", device="cpu", precision="fp32", fingerprint="dim")

    def encode_pixels(self, pixels: Sequence[object]) -> Embeddings:
        return _four(super().encode_pixels(pixels))  # type: ignore[arg-type]

    def encode_image(self, images: Sequence[object]) -> Embeddings:
        return _four(super().encode_image(images))

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return _four(ColourEncoder().encode_text(texts)[:, ::-1])

    def encode_tokens(self, rows: Sequence[str]) -> Embeddings:
        return self.encode_text(rows)


def _four(vectors: Embeddings) -> Embeddings:
    return np.pad(vectors, ((0, 0), (0, 1)))


def fill(catalog: Catalog) -> None:
    catalog.add([product("r", "red"), product("b", "blue"), Product("words", "no picture")])


def test_the_old_model_answers_until_the_switch_and_after_a_rollback() -> None:
    with shop() as catalog:
        fill(catalog)
        assert ids(catalog.match(Query("red", top_k=1))) == ["r"]
        report = catalog.reindex("dim", encoder=DimEncoder())
        assert (report.products, report.images, report.lost) == (2, 2, 0)
        assert ids(catalog.match(Query("red", top_k=1))) == ["r"]
        assert catalog.switch().number == 2
        found = catalog.match(Query("red", top_k=1))
        assert (ids(found), found.generation) == (["b"], 2)
        assert catalog.rollback().number == 1
        assert ids(catalog.match(Query("red", top_k=1))) == ["r"]
        assert catalog.rollback().number == 2


def test_a_model_is_probed_once() -> None:
    class Probed(DimEncoder):
        probes = 0

        def encode_image(self, images: Sequence[object]) -> Embeddings:
            self.probes += 1
            return super().encode_image(images)

    class ProbedColours(CountingEncoder):
        probes = 0

        def encode_image(self, images: Sequence[object]) -> Embeddings:
            self.probes += 1
            return super().encode_image(images)

    first, second = ProbedColours(), Probed()
    with shop(encoder=first) as catalog:
        fill(catalog)
        catalog.reindex("dim", encoder=second)
        catalog.switch()
        assert ids(catalog.match(Query("red", top_k=1))) == ["b"]
        catalog.rollback()
        assert ids(catalog.match(Query("red", top_k=1))) == ["r"]
    assert (first.probes, second.probes) == (1, 1)


def test_every_generation_gets_what_is_added_meanwhile() -> None:
    with shop() as catalog:
        fill(catalog)
        catalog.reindex("dim", encoder=DimEncoder())
        catalog.add([product("g", "green"), product("b", "yellow")])
        catalog.delete("r")
        catalog.switch()
        assert sorted(ids(catalog.match("green"))) == ["b", "g"]
        catalog.add(product("late", "red"))
        catalog.rollback()
        assert ids(catalog.match(Query("red", top_k=1))) == ["late"]


def test_what_another_process_added_during_the_build_is_there_after_the_switch(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as builder, shop(tmp_path / "c") as other:
        fill(builder)
        builder.reindex("dim", encoder=DimEncoder(), progress=lambda *_: _add_once(other))
        builder.switch()
        assert set(ids(builder.match("green"))) == {"r", "b", "meanwhile"}


def _add_once(catalog: Catalog) -> None:
    if catalog.get("meanwhile") is None:
        catalog.add(product("meanwhile", "green"))


def test_a_product_that_was_encoded_before_a_switch_is_encoded_for_the_new_model(tmp_path: Path) -> None:
    class Switching(CountingEncoder):
        """Switches to the new generation while it encodes for the old one."""

        def encode_pixels(self, pixels: Sequence[object]) -> Embeddings:
            if not self.images and len(catalogs) == 2:
                catalogs[1].reindex("dim", encoder=DimEncoder())
                catalogs[1].switch()
            return super().encode_pixels(pixels)  # type: ignore[arg-type]

    catalogs: list[Catalog] = []
    with shop(tmp_path / "c") as first:
        first.add(product("a", "blue"))
    with shop(tmp_path / "c", Switching()) as slow, shop(tmp_path / "c") as quick:
        slow._session.lend(slow.generations[0], Switching())  # type: ignore[arg-type]
        catalogs += [slow, quick]
        with pytest.raises(Exception, match="dim"):  # its model cannot be loaded here, and nothing was written
            slow.add(product("b", "red"))
        assert ids(quick.match("red")) == ["a"]
        assert slow.get("b") is None


def test_a_build_that_was_stopped_goes_on(tmp_path: Path) -> None:
    encoder = DimEncoder()
    with shop(tmp_path / "c") as catalog:
        catalog.add(product(str(number), (number % 256, number // 256, 90)) for number in range(600))
        with pytest.raises(StoppedError, match="512 of 600 products encoded; the same command resumes"):
            catalog.reindex("dim", encoder=encoder, stop=lambda: True)
    encoded = encoder.images
    with shop(tmp_path / "c") as catalog:
        report = catalog.reindex("dim", encoder=encoder)
        assert (report.products, report.images) == (88, 600)
        assert encoder.images - encoded == 88
        assert catalog.reindex("dim", encoder=encoder).products == 0


def test_a_generation_that_lost_pictures_is_not_ready_and_tries_them_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png("red"))
    with shop() as catalog:
        catalog.add([Product("a", images=[str(tmp_path / "a.png"), inline("blue")]), product("b", "green")])
        (tmp_path / "a.png").rename(tmp_path / "away.png")
        with pytest.raises(
            DatabaseError, match=r"lacks vectors for 1 images .* \(file_not_found 1\); .* --allow-lost 1"
        ):
            catalog.reindex("dim", encoder=DimEncoder())
        with pytest.raises(DatabaseError, match="no generation to switch to"):
            catalog.switch()
        report = catalog.reindex("dim", encoder=DimEncoder(), allow_lost=1)
        assert (report.images, report.lost) == (2, 1)
        (tmp_path / "away.png").rename(tmp_path / "a.png")
        assert catalog.reindex("dim", encoder=DimEncoder()).lost == 0
        catalog.switch()
        assert catalog.match("red").total == 2


def test_errors_are_those_of_the_generation_that_answers(tmp_path: Path) -> None:
    late = tmp_path / "a.png"
    with shop() as catalog:
        catalog.add(Product("a", images=str(late)))
        late.write_bytes(make_png("red"))
        catalog.reindex("dim", encoder=DimEncoder())
        assert [error for _, error in catalog.failures()] != []
        catalog.switch()
        assert list(catalog.failures()) == []
        catalog.rollback()
        assert [product.id for product, _ in catalog.failures()] == ["a"]
        assert catalog.retry().updated == 1
        assert list(catalog.failures()) == []


def test_a_picture_that_fails_later_keeps_its_vector_in_every_generation(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png("red"))
    with shop() as catalog:
        catalog.add(Product("a", images=str(tmp_path / "a.png")))
        catalog.reindex("dim", encoder=DimEncoder())
        catalog.switch()
        (tmp_path / "a.png").unlink()
        catalog.add(Product("a", "renamed", str(tmp_path / "a.png")))
        assert ids(catalog.match("red")) == ["a"]
        catalog.rollback()
        assert ids(catalog.match("red")) == ["a"]


def test_a_loaded_encoder_is_for_the_generation_that_was_live(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as serving, shop(tmp_path / "c") as other:
        other.add(product("a"))
        assert ids(serving.match("red")) == ["a"]
        other.reindex("mini")
        other.switch()
        assert serving.match("red").generation == 2
        other.rollback()
        assert serving.match("red").generation == 1


def test_a_generation_that_is_dropped_while_it_is_built(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as builder, shop(tmp_path / "c") as other:
        builder.add(product(str(number), (number % 256, number // 256, 90)) for number in range(600))

        def drop(*_: int) -> None:
            other.drop()

        with pytest.raises(DatabaseError, match="generation 2 has been dropped by another process"):
            builder.reindex("dim", encoder=DimEncoder(), progress=drop)
        rows = other._session.ledger.database.read("SELECT count(*) FROM picture WHERE generation = 2")
        assert rows == [(0,)]


def test_a_generation_that_is_dropped_while_it_answers(tmp_path: Path) -> None:
    """Its store is still open here, and would rank products whose vectors are gone from the ledger."""
    with shop(tmp_path / "c") as asking, shop(tmp_path / "c") as other:
        fill(asking)
        query, red = Query("red", top_k=2), [*ColourEncoder().encode_text(["red"])]
        searcher = asking.searcher
        asked = [searcher.check(query, searcher.live())]
        assert ids(next(searcher.answer(asked, red, []))) == ["r", "b"]  # type: ignore[arg-type]
        other.reindex("dim", encoder=DimEncoder())
        other.switch()
        assert searcher.dropped() == frozenset()
        assert other.drop() == [1]
        with pytest.raises(DatabaseError, match="generation 1 was dropped by another process during this query"):
            next(searcher.answer(asked, red, []))
        assert searcher.dropped() == {1}
        searcher.forget(1)
        assert searcher.dropped() == frozenset()


def test_what_cannot_be_switched_is_told() -> None:
    with shop() as catalog:
        fill(catalog)
        with pytest.raises(DatabaseError, match="no generation to switch to; build one with reindex"):
            catalog.switch()
        with pytest.raises(DatabaseError, match="no generation to go back to"):
            catalog.rollback()
        with pytest.raises(DatabaseError, match=r"already uses colour"):
            catalog.reindex("colour", encoder=ColourEncoder())
        catalog.reindex("dim", encoder=DimEncoder())
        assert catalog.drop() == [2]
        assert [generation.state for generation in catalog.generations] == ["live"]
        with pytest.raises(DatabaseError, match="no generation to switch to"):
            catalog.switch()


def test_a_new_build_drops_what_could_be_rolled_back_to() -> None:
    with shop() as catalog:
        fill(catalog)
        catalog.reindex("dim", encoder=DimEncoder())
        catalog.switch()
        catalog.reindex("colour", encoder=ColourEncoder())
        assert [(generation.number, generation.state) for generation in catalog.generations] == [
            (2, "live"),
            (3, "ready"),
        ]
        catalog.switch()
        assert ids(catalog.match(Query("red", top_k=1))) == ["r"]


def test_a_page_of_another_generation_is_refused() -> None:
    with shop() as catalog:
        fill(catalog)
        after = catalog.match(Query("red", top_k=1)).next
        catalog.reindex("dim", encoder=DimEncoder())
        catalog.switch()
        with pytest.raises(Exception, match="has switched to another model since that page"):
            catalog.match(Query("red", top_k=1, after=after))


def test_the_next_process_loads_the_model_of_the_live_generation(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        fill(catalog)
        catalog.reindex("mini", encoder=None)
        catalog.switch()
    with open_catalog(tmp_path / "c", config=Config(io_workers=2)) as catalog:
        assert catalog.match("a red car").generation == 2


def test_recall_of_an_exact_store_is_one() -> None:
    with shop() as catalog:
        catalog.add(product(str(number), (number * 7 % 256, number, 9), price=number) for number in range(50))
        report = catalog.check(queries=10, filters=[None, "price < 5", "price > 100"])
        assert (report.mean, report.worst, report.short, report.filters) == (1.0, 1.0, 0, 3)
