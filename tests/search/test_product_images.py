"""Files that a table named and that are read again: they may have become links to other places since."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from tests.search.test_generations import DimEncoder
from tests.support.images import make_png
from text_image_similarity import Config, Product, RowError, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import product_images

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


@pytest.mark.parametrize("root", [None, r"\\evil\share", "//evil/share"])
def test_a_catalogue_cannot_choose_a_network_share(root: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows would log in to the host that a stranger's catalogue names, even to look for the folder of its images."""
    monkeypatch.setattr(product_images, "local_path", PureWindowsPath)  # has no files, so that looking would raise
    roots: Any = [PureWindowsPath(root)] if root else []
    with pytest.raises(RowError, match=r"needs --files-under FOLDER \(files_under\): .*x\.png is on a network share"):
        product_images.check_again(r"\\evil\share\x.png", Config(), roots)
    with pytest.raises(RowError, match=r"needs --files-under FOLDER .* is not under C:.own"):
        product_images.check_again(r"\\evil\share\x.png", Config(files_under=r"C:\own"), roots)
    product_images.check_again(r"C:\own\x.png", Config(), roots)
