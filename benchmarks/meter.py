"""Seconds, CPU seconds and memory of this process and of all it started."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil


class Meter:
    """Measures a block: `with Meter() as meter: ...`, then read it.

    Attributes:
        seconds: Wall clock.
        cpu_seconds: User and system time of this process and its descendants, ended ones included.
    """

    seconds = 0.0
    cpu_seconds = 0.0

    def __enter__(self) -> Meter:
        self.cpu_seconds = tree_cpu_seconds()
        self.seconds = time.perf_counter()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self.seconds
        self.cpu_seconds = tree_cpu_seconds() - self.cpu_seconds


def tree_cpu_seconds() -> float:
    """Return the CPU time that this process, its descendants and their ended children have used."""
    total = 0.0
    for process in _tree(psutil.Process()):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that one process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def family_mib(pid: int) -> float:
    """Return the memory of a process and its descendants now, pages they share counted once (PSS); 0 if it has none.

    The kernel takes a while to add that up, so a process alone is spared: `peak_mib` serves there.
    """
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        family = _tree(psutil.Process(pid))
        for process in family if len(family) > 1 else []:
            with suppress(psutil.Error, OSError):
                total += process.memory_full_info().pss
    return total / 2**20


@dataclass(frozen=True, slots=True)
class Family:
    """What a process and its descendants have now.

    Args:
        mib: Resident memory, in MiB; pages that they share count for each.
        files: Open files.
        threads: Threads.
        cpu_s: CPU time that they have used, in seconds.
    """

    mib: float
    files: int
    threads: int
    cpu_s: float


def family(pid: int) -> Family:
    """Look at a process and its descendants."""
    mib, files, threads, cpu_s = 0.0, 0, 0, 0.0
    for process in _tree(psutil.Process(pid)):
        with suppress(psutil.NoSuchProcess), process.oneshot():
            mib += process.memory_info().rss / 2**20
            files += process.num_fds()
            threads += process.num_threads()
            cpu_s += sum(process.cpu_times()[:4])  # ended children's as well
    return Family(mib, files, threads, cpu_s)


def peak_mib() -> float:
    """Return the most resident memory this process has had; `ru_maxrss` would begin with that of its parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found.group(1)) / 1024


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
