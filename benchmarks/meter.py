"""Measure the seconds, CPU seconds and memory of this process and of all processes that it started."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil


class Meter:
    """Measures a block of code: use `with Meter() as meter: ...`, then read the attributes.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: User and system time of this process and its descendants, including those that have ended.
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
    """Return the current memory of a process and its descendants, with shared pages counted once (PSS), in MiB.

    The kernel takes a while to compute PSS, so the result is 0 for a process without children, which `peak_mib`
    measures instead. It is also 0 for a process that has ended.
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
    """The resources that a process and its descendants use at present.

    Args:
        mib: Resident memory, in MiB; shared pages are counted once per process.
        files: The number of open files.
        threads: The number of threads.
        cpu_s: CPU time that these processes have used, in seconds.
    """

    mib: float
    files: int
    threads: int
    cpu_s: float


def family(pid: int) -> Family:
    """Return the resources of a process and its descendants."""
    mib, files, threads, cpu_s = 0.0, 0, 0, 0.0
    for process in _tree(psutil.Process(pid)):
        with suppress(psutil.NoSuchProcess), process.oneshot():
            mib += process.memory_info().rss / 2**20
            files += process.num_fds()
            threads += process.num_threads()
            cpu_s += sum(process.cpu_times()[:4])  # including children that have ended
    return Family(mib, files, threads, cpu_s)


def peak_mib() -> float:
    """Return the peak resident memory of this process; `ru_maxrss` would include that of its parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found.group(1)) / 1024


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
