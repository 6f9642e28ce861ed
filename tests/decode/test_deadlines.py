"""Deadlines: one thread calls for every wait that takes too long, and for no other."""

from __future__ import annotations

from threading import Event

from tests.support.clock import HANG_S
from text_image_similarity.decode.deadlines import Deadlines


def test_who_is_late_is_called_and_others_are_not() -> None:
    deadlines, called, late = Deadlines(), [], Event()
    deadlines.begin("long", HANG_S, lambda: called.append("long"))
    deadlines.begin("done", 0.02, lambda: called.append("done"))
    assert deadlines.end("done")
    deadlines.begin("short", 0.02, late.set)  # due before what the thread waits for
    assert late.wait(HANG_S / 2)
    assert not deadlines.end("short")
    assert deadlines.end("long")
    assert called == []
    deadlines.close()


def test_its_thread_starts_with_the_first_wait_and_ends_when_closed() -> None:
    deadlines = Deadlines()
    assert deadlines._thread is None
    deadlines.begin("one", HANG_S, lambda: None)
    deadlines.end("one")
    thread = deadlines._thread
    assert thread is not None
    deadlines.close()
    thread.join(HANG_S)
    assert not thread.is_alive()
