"""Files that a table named and that are read again: they may have become links to other places since."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.search.test_generations import DimEncoder
from tests.support.images import make_png
from text_image_similarity import Config, Product, RowError, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder

NAMES = ("kept", "within", "file", "folder", "dots")


@pytest.fixture
def tampered(tmp_path: Path) -> Path:
    """A catalogue, of whose table some images have become links out of the table's folder since."""
    own, private = tmp_path / "own", tmp_path / "private"
    for folder in (own / "more", own / "originals", private):
        folder.mkdir(parents=True)
    for path in (own / "kept.png", own / "originals/a.png", own / "file.png", own / "more/b.png", own / "dots.png"):
        path.write_bytes(make_png("red"))
    for name in ("file.png", "b.png", "dots.png"):
        (private / name).write_bytes(make_png("blue"))
    (own / "within.png").symlink_to("originals/a.png")
    (own / "products.csv").write_text(
        f"id,name,image\nkept,,kept.png\nwithin,,{(own / 'within.png').as_uri()}\nfile,,file.png\nfolder,,more/b.png\ndots,,../own/dots.png\n"
    )
    with open_catalog(tmp_path / "c", fields=[], encoder=ColourEncoder()) as catalog:
        report = catalog.add_table(own / "products.csv")
        assert (report.added, report.failures.total()) == (5, 0)
        catalog.add(Product("program", images=str(private / "b.png")))  # which may name any file
    for name, target in (("file.png", "file.png"), ("dots.png", "dots.png"), ("more", "")):
        (own / name).rename(own / f"{name}.before")
        (own / name).symlink_to(private / target)
    return tmp_path / "c"


def test_what_has_become_a_link_out_of_its_tables_folder_is_not_read_again(tampered: Path) -> None:
    with open_catalog(tampered, encoder=ColourEncoder()) as catalog:
        for name in (*NAMES, "program"):
            (image,) = catalog.get(name).images  # type: ignore[union-attr]
            if name in ("kept", "within", "program"):
                catalog.searcher.check_file(image)
            else:
                with pytest.raises(RowError, match=r"needs --files-under FOLDER .* is not under .*own"):
                    catalog.searcher.check_file(image)
        report = catalog.reindex("dim", encoder=DimEncoder(), allow_lost=3)
        assert (report.failures, report.lost) == ({"file_not_found": 3}, 3)


def test_who_runs_it_may_name_another_folder(tampered: Path) -> None:
    with open_catalog(tampered, config=Config(files_under=tampered.parent), encoder=ColourEncoder()) as catalog:
        report = catalog.reindex("dim", encoder=DimEncoder())
        assert (report.failures, report.lost) == ({}, 0)


@pytest.mark.parametrize("first", ["own", "/"])
def test_a_file_is_read_again_if_any_table_could_name_it(tmp_path: Path, first: str) -> None:
    (own := tmp_path / "own").mkdir()
    (tmp_path / "red.png").write_bytes(make_png("red"))
    (own / "red.png").symlink_to(tmp_path / "red.png")
    (own / "products.csv").write_text("id,name,image\nred,,red.png\n")
    roots = (None, "/") if first == "own" else ("/", None)
    for files_under in roots:
        config = Config(files_under=files_under)
        with open_catalog(tmp_path / "c", fields=[], config=config, encoder=ColourEncoder()) as catalog:
            catalog.add_table(own / "products.csv")
    with open_catalog(tmp_path / "c", encoder=ColourEncoder()) as catalog:
        report = catalog.reindex("dim", encoder=DimEncoder())
        assert (report.failures, report.lost) == ({}, 0)
