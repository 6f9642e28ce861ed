from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mongomock
import pymongo
import pytest

from text_image_similarity.search.match_log import MatchLog, open_match_log

Open = Callable[[], MatchLog]


@pytest.fixture(params=["sqlite", "postgres", "mongo"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens one log, as often as one likes, each time as another process would; MongoDB's server is one in memory."""
    place = str(tmp_path / "log.sqlite")
    if request.param == "postgres":
        place = request.getfixturevalue("postgres_url")
    elif request.param == "mongo":
        client: Any = mongomock.MongoClient()
        monkeypatch.setattr(pymongo, "MongoClient", lambda *_, **__: client)
        place = "mongodb://db.example/shop/matches"
    with ExitStack() as stack:
        yield lambda: stack.enter_context(open_match_log(place))


@pytest.fixture
def log(opened: Open) -> MatchLog:
    return opened()
