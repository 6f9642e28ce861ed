"""system: deadlines on what may hang, cores, pauses, optional libraries, names that are imported late."""

from __future__ import annotations

import os
import random
import threading

import pytest

from tests.support.clock import HANG_S
from text_image_similarity import MissingExtraError, system


def test_a_call_that_hangs_is_left_behind() -> None:
    hold = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        system.call_within(0.05, hold.wait, name="hanging")
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "hanging")
    assert thread.daemon
    hold.set()
    thread.join(HANG_S)


def test_a_call_returns_or_raises_what_it_did() -> None:
    assert system.call_within(HANG_S, lambda: 7, name="quick") == 7
    nothing: dict[str, int] = {}
    with pytest.raises(KeyError, match="gone"):
        system.call_within(HANG_S, lambda: nothing["gone"], name="quick")


def test_a_time_out_of_the_calls_own_says_what_it_said() -> None:
    def slow() -> None:
        raise TimeoutError("the host is slow")

    with pytest.raises(TimeoutError, match="the host is slow"):
        system.call_within(HANG_S, slow, name="slow")


def test_cores_are_those_that_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert system.usable_cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5}, raising=False)
    assert system.usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert system.usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.usable_cores() == 1


def test_a_long_name_is_not_compared_with_those_it_may_misspell() -> None:
    assert system.closest("Fa" * 50, ["fa" * 51, "b"]) == "fa" * 51
    assert system.closest("fa" * 50 + "f", ["fa" * 51, "b"]) is None


def test_pauses_grow_to_a_cap_and_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 1.0)
    assert [system.backoff_s(tries) for tries in (0, 1, 2, 5, 6, 1000)] == [0.25, 0.5, 1.0, 8.0, 8.0, 8.0]
    monkeypatch.setattr(random, "random", lambda: 0.0)
    assert system.backoff_s(5) == 0.0


def test_a_missing_library_is_told_with_the_command_that_brings_it() -> None:
    system.require("testing", "json", extra="train")
    with pytest.raises(MissingExtraError, match=r'flying needs wings, tail: pip install "\.\[birds\]" in a checkout'):
        system.require("flying", "wings", "json", "tail", extra="birds")
    assert issubclass(MissingExtraError, ImportError)
