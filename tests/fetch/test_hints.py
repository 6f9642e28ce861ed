"""References that can never be found say what is wrong with them, and accidents around a reference do not matter."""

from __future__ import annotations

import time
import unicodedata
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.images import make_png
from text_image_similarity import Config, Limits, Record, RowError
from text_image_similarity.client.pairs import Pairs
from text_image_similarity.fetch import Fetcher, is_base64_image, resolve_reference, strip_invisible
from text_image_similarity.report.tally import host_of

PICTURE = make_png()
BASE64 = b64encode(PICTURE).decode()
HIDDEN = "\ufeff\u200b\u2060\u00a0\u200e \t\n\u00ad\u3164"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/dog.jpg", "a.jpg", "my dog.jpg", unicodedata.normalize("NFD", "Bücher/é.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    return tmp_path


@pytest.fixture
def fetcher(folder: Path) -> Iterator[Fetcher]:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=str(request.url).encode()))
    found = Fetcher(Config(base_dir=folder, retries=0), transport=transport)
    yield found
    found.close()


def failure(fetcher: Fetcher, reference: str) -> RowError:
    with pytest.raises(RowError) as caught:
        fetcher.fetch(reference)
    return caught.value


MISSING = {
    "images\\dog.jpg": "backslashes do not separate folders on this system; write /: ",
    "images\\cat.jpg": "write /",
    "\\\\server\\share\\a.jpg": "write /",
    "~/a.jpg": "~ does not stand for the home folder here; write the full path",
    "~bob/a.jpg": "write the full path",
    "$HOME/a.jpg": "variables are not expanded",
    "%USERPROFILE%\\a.jpg": "variables are not expanded",
    "C:\\images\\a.jpg": "a Windows drive letter",
    "file:///C:/images/a.jpg": "a Windows drive letter",
    "www.example.com/x.jpg": "a web address must begin with http:// or https://",
    "example.com/x.jpg": "a web address must begin with",
    "//example.com/x.jpg": "a web address must begin with",
    "192.0.2.1:8000/x.jpg": "a web address must begin with",
    "http//example.com/x.jpg": "a web address without a colon",
    "![dog](http://example.com/x.jpg)": "a URL begins inside it",
    '"a.jpg"': 'it is enclosed in " and "; remove them',
    "['a.jpg']": "remove them",
    "b'\\x89PNG'": "Python's notation for bytes",
    "B\u00fccher/\u00e9.jpg": "in another Unicode form (NFD): ",
    "a\u200b.jpg": "invisible characters in the name: ",
    "my%20dog.jpg": "percent-encoding is not decoded in a path: ",
    "a.jpg?raw=1": "a path cannot have a query: ",
    "Images/dog.JPG": "upper and lower case differ: ",
    "a.JPG": "upper and lower case differ: ",
    "images/dog": "the extension is missing: ",
    "images/dog.png": "the extension is different: ",
    "link.jpg": "a symbolic link to gone.jpg, which does not exist",
    "images": "is a folder",
    "x" * 400 + ".jpg": "...",
}


@pytest.mark.parametrize("reference", MISSING)
def test_a_path_that_is_not_found_says_what_is_wrong_with_it(fetcher: Fetcher, folder: Path, reference: str) -> None:
    for given in (reference, resolve_reference(reference, folder)):  # as `score` and as `evaluate` hand it in
        error = failure(fetcher, given)
        assert error.code == "file_not_found", given
        assert MISSING[reference] in error.detail, given


def test_an_existing_file_is_named_as_the_way_out(fetcher: Fetcher, folder: Path) -> None:
    assert failure(fetcher, "images\\dog.jpg").detail.endswith(f"{folder}/images/dog.jpg exists")
    assert failure(fetcher, "Bücher/é.jpg").detail.endswith("Bu\\u0308cher/e\\u0301.jpg' exists")


@pytest.mark.parametrize("reference", ["gone.jpg", "b.txt", "images.zip/dog.jpg", "v1.2/dog.jpg", "fichier é.jpg"])
def test_nothing_is_said_where_nothing_is_known(fetcher: Fetcher, folder: Path, reference: str) -> None:
    assert failure(fetcher, reference).detail == f"{folder / reference}: No such file or directory"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("localhost:8000/a.jpg", "a web address must begin with http:// or https://"),
        ("example.com:8080/a.jpg", "a web address must begin with http:// or https://"),
        ("url:https://example.com/a.jpg", "a URL begins inside it"),
    ],
)
def test_what_looks_like_a_scheme_is_explained_too(fetcher: Fetcher, reference: str, said: str) -> None:
    error = failure(fetcher, reference)
    assert error.code == "unsupported_scheme"
    assert said in error.detail


@pytest.mark.parametrize("reference", ["www.example.com/x.jpg", "'https://example.com/x.jpg'", "https:example.com/x"])
def test_a_service_explains_what_was_meant_as_a_url(reference: str) -> None:
    fetcher = Fetcher(Config(limits=Limits(allow_local_files=False)))
    assert "http" in failure(fetcher, reference).detail
    assert str(failure(fetcher, "~/a.jpg")) == "unsupported_scheme: local files are not allowed here"


@pytest.mark.parametrize("text", [BASE64, BASE64.rstrip("="), BASE64.replace("+", "-").replace("/", "_"),
                                  "/9j/4AAQSkZJRgABAQEASABIAAD", "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYx", "a1B2" * 30,
                                  "image/png;base64," + BASE64])  # fmt: skip
def test_base64_in_a_cell_is_named(fetcher: Fetcher, text: str) -> None:
    service = Fetcher(replace(Config(), limits=Limits(allow_local_files=False)))
    for found in (fetcher, service):
        error = failure(found, text)
        assert error.code == "invalid_url"
        assert error.detail.startswith("the reference is base64, not a URL or a path; write data:")


@pytest.mark.parametrize("name", ["0123456789abcdef" * 8, "train/" + "sub_folder/" * 12 + "image", "a/no/such/file"])
def test_a_name_that_could_be_base64_stays_a_path(fetcher: Fetcher, name: str) -> None:
    assert failure(fetcher, name).code == "file_not_found"


@pytest.mark.parametrize("reference", ["a.jpg", "file:a.jpg", "data:;base64," + BASE64, "https://example.org/a.jpg"])
def test_invisible_characters_around_a_reference_do_not_matter(fetcher: Fetcher, folder: Path, reference: str) -> None:
    reference = (folder / "a.jpg").as_uri() if reference.startswith("file:") else reference
    assert fetcher.fetch(HIDDEN + reference + HIDDEN) == fetcher.fetch(reference)
    pairs = Pairs(Config(base_dir=folder))
    assert pairs.pair(Record(HIDDEN + reference + HIDDEN, "a")) == pairs.pair(Record(reference, "a"))
    assert host_of(HIDDEN + reference) == host_of(reference)
    if "/" not in reference:
        assert resolve_reference(HIDDEN + reference + HIDDEN, folder) == str(folder / "a.jpg")


def test_only_invisible_characters_are_an_empty_reference(fetcher: Fetcher) -> None:
    assert str(failure(fetcher, HIDDEN)) == "invalid_url: the image is empty or missing"


@pytest.mark.parametrize("text", [BASE64, BASE64.rstrip("="), BASE64[:40] + "\n" + BASE64[40:], BASE64.replace("=", "%3D"),
                                  BASE64 + " \t"])  # fmt: skip
@pytest.mark.parametrize("head", ["data:image/png;base64,", "data:;BASE64,", "data:image/png; base64 ,"])
def test_base64_in_a_data_url_is_read_as_browsers_read_it(fetcher: Fetcher, head: str, text: str) -> None:
    assert fetcher.fetch(head + text) == PICTURE


def test_base64_that_is_not_marked_is_named(fetcher: Fetcher) -> None:
    error = failure(fetcher, "data:image/png," + BASE64)
    assert str(error) == "invalid_url: the data: URL holds base64; write ;base64 before its comma"


def test_bits_that_are_left_over_do_not_matter(fetcher: Fetcher) -> None:
    assert fetcher.fetch("data:;base64,YWJ") == fetcher.fetch("data:;base64,YWI") == b"ab"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("YWJjZ", "it is one character too long or too short"),
        ("YWI==", "ends with 2 =, which is too many or too few"),
        ("YQ=", "ends with 1 =, which is too many or too few"),
        ("YWJj====", "ends with 4 =, which is too many"),
        ("YW=Jj", "character 3 of its base64 is '='"),
        ("YW-_", "in URL-safe base64; write + for -"),
        ("YW?j", "character 3 of its base64 is '?'"),
        ("https://example.org/a.jpg", "it has a URL in place of base64"),
    ],
)
def test_base64_that_is_wrong_is_explained(fetcher: Fetcher, text: str, said: str) -> None:
    error = failure(fetcher, "data:;base64," + text)
    assert error.code == "invalid_url"
    assert said in error.detail


def test_what_stands_around_a_long_reference_is_looked_at_no_further_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def look(character: str) -> bool:
        seen.append(character)
        return character == " "

    monkeypatch.setattr("text_image_similarity.fetch.references.is_invisible", look)
    for text in (" " * 100_000, "a" + " " * 100_000, " " * 100_000 + "a"):
        strip_invisible(text)
    assert 3000 <= len(seen) < 6010
    assert strip_invisible(" " * 1000 + "a" + " " * 1000) == "a"


def test_base64_is_told_from_blanks_in_time_that_grows_with_them() -> None:
    """The square of their number was 0.5 s for each reference, without a moment for any other thread."""
    began = time.thread_time()
    for _ in range(50):
        assert not is_base64_image("a" + " " * 9_900 + "!")
    assert time.thread_time() - began < 5
    assert is_base64_image(BASE64 + "==\n")


@pytest.mark.parametrize("again", ["a.", "-", "a:", "${", "(", "https:/", "\u0315\u0300"])
def test_a_long_reference_is_explained_by_its_start(again: str) -> None:
    error = failure(Fetcher(Config(limits=Limits(allow_local_files=False))), "q" + again * (1_000_000 // len(again)))
    assert error.code == "unsupported_scheme"
    assert len(error.detail) < 300


def test_a_long_reference_in_quotation_marks_is_known_by_its_end() -> None:
    fetcher = Fetcher(Config(limits=Limits(allow_local_files=False)))
    assert 'it is enclosed in " and "; remove them' in failure(fetcher, '"' + "a" * 5000 + '"').detail
