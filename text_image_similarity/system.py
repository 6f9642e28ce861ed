"""Helpers for the whole package: daemon threads with deadlines, cores, back-off, optional libraries, and others."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from .errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


def start_daemon(function: Callable[[], T], *, name: str) -> Future[T]:
    """Run a function on a daemon thread, which cannot keep the process from ending, and return a future for its result.

    Cancelling the future does not stop the function.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()
    Thread(target=settle, args=(done, function), name=name, daemon=True).start()
    return done


def settle(future: Future[T], function: Callable[[], T]) -> None:
    """Run a function, and store its result or exception in a running future."""
    try:
        future.set_result(function())
    except BaseException as exc:  # includes panics of native libraries; `future.result()` raises it again
        future.set_exception(exc)
    finally:
        del future, function  # the exception refers to this frame, which would otherwise refer to the exception


def forget_frames(error: BaseException | None) -> None:
    """Remove the frames from an exception that has been handled, and from all exceptions that led to it.

    Frames hold the variables of functions, often including the exception itself, and such a cycle stays in memory until
    a garbage collection.
    """
    waiting = [error]
    while waiting:
        if (each := waiting.pop()) is not None:
            waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]  # those of a group
            each.__traceback__ = each.__cause__ = each.__context__ = None


def forget_failure(future: Future[T] | asyncio.Future[T]) -> None:
    """Remove the frames from the exception of a finished future, as a callback for futures that nobody waits for."""
    try:
        error = future.exception()
    except BaseException as exc:  # it was cancelled, and a cancelled task also holds its exception
        error = exc
    forget_frames(error)
    del error  # otherwise, this frame would be part of a cycle itself


def call_within(seconds: float, function: Callable[[], T], *, name: str) -> T:
    """Call a function and return its result, with a time limit that applies even if the function hangs.

    Args:
        seconds: The time limit.
        function: Function to call. It continues in the background when the time is up, because a system call that hangs
            can be neither ended nor joined.
        name: The thread's name.

    Raises:
        TimeoutError: The function took longer.
    """
    try:
        return start_daemon(function, name=name).result(seconds)
    except TimeoutError as exc:
        raise TimeoutError(str(exc) or f"no answer within {seconds:g} s") from exc


_PLACE = '".{}" in a checkout; elsewhere, replace the dot with the path of the wheel'  # every shell reads double quotes


def usable_cores() -> int:
    """Return the number of cores this process may use: OMP_NUM_THREADS if set, as in torch, or those it is bound to."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def return_free_memory() -> None:
    """Return freed memory to the operating system, if the C library (glibc) would keep it."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


_LONGEST_NAME = 100  # characters of a name that may be a misspelling


def backoff_s(tries: int) -> float:
    """Return the seconds to wait after `tries` + 1 failed attempts: full jitter under 0.25 * 2^tries, at most 8."""
    pause: float = min(8.0, 0.25 * 2 ** min(tries, 5)) * random.random()
    return pause


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a name probably misspells, or None; case is ignored, and `_` is the same as `-`.

    For a name of more than 100 characters, the result is None, because comparing takes time in proportion to the
    product of the lengths.
    """
    if len(name) > _LONGEST_NAME:
        return None
    names = {each.casefold().replace("_", "-"): each for each in known}
    near = get_close_matches(name.casefold().replace("_", "-"), names, n=1, cutoff=0.66)
    return names[near[0]] if near else None


def require(purpose: str, *names: str, extra: str = "") -> None:
    """Make sure that libraries are installed, without importing them, and that torch can be imported safely.

    Args:
        purpose: What needs the libraries, as the subject of a sentence: "scoring on Spark".
        names: The modules that are needed.
        extra: The extra, or several separated by commas, that installs them; empty for required dependencies.

    Raises:
        MissingExtraError: A library is missing; the message names the pip command.
        UsageError: See `refuse_planted_driver`.
    """
    if missing := [name for name in names if not is_installed(name)]:
        raise MissingExtraError(f"{purpose} needs {', '.join(missing)}: {install_command(extra)}")
    if not _IMPORT_TORCH.isdisjoint(names):
        refuse_planted_driver()


_IMPORT_TORCH = {"torch", "open_clip"}
_DRIVER = "libcuda.so.1"
_TIERS = ("tls", "haswell", "xeon_phi", "avx512_1", "sse2", "x86_64", "atomics", "aarch64")
_MOST_TIERS = 4  # levels of nested folders in which older versions of glibc look


def refuse_planted_driver() -> None:
    """Make sure, before torch is imported, that importing it runs no code from the working folder.

    cuSPARSELt, which torch loads, has an empty entry in its search path for NVIDIA's driver, and the dynamic linker
    interprets that entry as the working folder. A working folder that contains a file with the driver's name is
    therefore refused. The process does not change to another folder during the import, because the working folder
    belongs to the whole process, and other threads would resolve relative paths against the other folder.

    Raises:
        UsageError: The working folder contains a file that would be loaded as the driver.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    folders = [Path()]
    for folder in folders:  # the list grows meanwhile
        for each in (folder, *(folder / "glibc-hwcaps" / f"x86-64-v{level}" for level in (2, 3, 4))):
            if os.path.lexists(each / _DRIVER):
                raise UsageError(
                    f"{each / _DRIVER} in the working folder would run as code when torch is loaded; remove it, or run from "
                    "another folder"
                )
        if len(folder.parts) < _MOST_TIERS:
            folders += [folder / name for name in _TIERS if (folder / name).is_dir()]


def install_command(extra: str = "") -> str:
    """Return the command that installs this package with an extra, or with several separated by commas.

    The package is on no package index, so anyone could register its name there, and their code would run on the machine
    of whoever follows a suggested command. The commands therefore name a path.
    """
    return f"pip install {_PLACE.format(f'[{extra}]' if extra else '')}"


def is_installed(name: str) -> bool:
    """Tell whether a module can be imported, without importing it."""
    return find_spec(name) is not None


@cache
def package_version() -> str:
    """Return this package's version, which is defined only in pyproject.toml.

    It is the version of the imported package, regardless of what else is installed: in a source tree, it is read from
    pyproject.toml; elsewhere, from the metadata of the installation, or of a wheel that is imported as a zip. A copy
    with neither has the version `unknown`.
    """
    import tomllib  # both take longer to import than this module, and few processes need the version
    from importlib.metadata import distributions

    name, home = "text-image-similarity", Path(__file__).parents[1]
    if (home / "pyproject.toml").is_file():
        project = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == name:
            return str(project["version"])
    return next((found.version for found in distributions(name=name, path=[str(home)])), "unknown")


def lazy_names(
    package: str,
    homes: Mapping[str, tuple[str, ...]],
    values: Mapping[str, Callable[[], object]] = MappingProxyType({}),
    *,
    before: Callable[[], object] = lambda: None,
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose names are imported on first use (PEP 562).

    Args:
        package: The package's `__name__`.
        homes: The names that each module of the package defines.
        values: A function for each name whose value is computed.
        before: A function to call before a module is imported.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> object:
        if name in values:
            value = values[name]()
        elif name in home:
            before()
            value = getattr(import_module(f".{home[name]}", package), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home, *values})

    return get, names
