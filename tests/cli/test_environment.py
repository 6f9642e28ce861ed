"""Options of `serve` as environment variables."""

from __future__ import annotations

import argparse

import pytest

from tests.cli.test_cli import command
from text_image_similarity.cli.environment import PREFIX, variable_of
from text_image_similarity.cli.main import make_parser
from text_image_similarity.cli.parser import option_of


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser()[0].parse_args(arguments)


def test_variables_stand_for_options_that_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PORT": "8123",
        "MODEL": "mini 'big=/models/the big one'",
        "LAZY": "true",
        "ISOLATE_DECODER": "false",
        "LIMIT": "total_s=9 per_host=2",
        "HOST": "",
        "MAX_QUEUE": "7",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    monkeypatch.setenv("TEXT_IMAGE_SIMILARITY_PORT", "tcp://10.0.0.1:80")  # from Kubernetes
    found = parsed("serve", "--max-queue", "9", "--model=fast")
    assert (found.port, found.max_queue, found.models, found.host) == (8123, 9, ["fast"], "127.0.0.1")
    assert (found.lazy, found.isolate_decoder, found.limits) == (True, False, [("total_s", 9.0), ("per_host", 2)])
    assert parsed("serve").models == ["mini", "big=/models/the big one"]
    assert not hasattr(parsed("filter", "in.csv", "out.csv"), "port")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "tcp", "argument --port: 'tcp' is not a port, which is a whole number from 0 to 65535"),
        ("LAZY", "maybe", "TEXT_IMAGE_SIMILARITY_SERVE_LAZY must be true or false, not 'maybe'"),
        ("MODEL", "'mini", "TEXT_IMAGE_SIMILARITY_SERVE_MODEL cannot be read: No closing quotation"),
    ],
)
def test_a_wrong_variable_is_said(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    assert command("serve") == 2
    assert message in capsys.readouterr().err


def test_every_option_has_a_variable_of_its_own() -> None:
    options = [action.option_strings[-1] for action in make_parser()[1]["serve"]._actions]
    assert len(set(map(variable_of, options))) == len(options)
    assert variable_of(option_of("max_queue")) == f"{PREFIX}MAX_QUEUE"
