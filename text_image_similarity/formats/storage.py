"""Places of tables: local paths, and fsspec URLs such as `s3://bucket/pairs.parquet`."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..config import NOWHERE, Config
from ..errors import TableError, UsageError
from ..files import path_text
from ..system import install_command
from .braces import expand_braces
from .folders import holds_images, shards_among
from .hashing import Hashed
from .names import ending_of

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::.*://)")
_WILD = re.compile(r"[*?\[]")
_PARTITION = re.compile(r"[^=]+=.*")


def is_url(place: str) -> bool:
    """Tell whether a place is an fsspec URL rather than a path; a `file:` URL counts as a path."""
    return _URL.match(place) is not None and not place.lower().startswith("file://")


def local_path(place: str) -> Path:
    """Return a path, or the path of a `file:` URL."""
    return Path(url2pathname(urlsplit(place).path)) if place.lower().startswith("file://") else Path(place)


def folder_of(place: str) -> Path | None:
    """Return the folder against which a table's relative image paths are resolved; None if it is not local."""
    if is_url(place):
        return None
    if place.startswith("hf:"):
        from .hub_files import hub_home  # imported here, because it loads the hub's client

        return hub_home(place)
    path = local_path(place)
    if path.is_dir():
        return path
    fixed = list(path.parts[:-1])
    while not path.exists() and any(
        _WILD.search(part) or "{" in part for part in fixed
    ):  # for a pattern, use the part before the wildcard
        fixed.pop()
    return Path(*fixed)


def with_base_dir(config: Config, place: str) -> Config:
    """Return the settings with the folder of a table; see `with_folder`."""
    return with_folder(config, folder_of(place))


def with_folder(config: Config, folder: str | PathLike[str] | None) -> Config:
    """Return the settings with the folder for relative image paths, which local files must also be in.

    Values that are already set are kept.

    Args:
        config: The settings.
        folder: Folder of the table; None if the table is not local, so that it may name no local files unless
            `base_dir` or `files_under` is set.
    """
    own = path_text(config.base_dir, "base_dir") if config.base_dir else folder
    root = path_text(config.files_under, "files_under") if config.files_under else own
    return replace(
        config, base_dir=Path(own or "").resolve(), files_under=NOWHERE if root is None else Path(root).resolve()
    )


def expand(place: str) -> list[str]:
    """Return the files of a place, in order: one file, the files of a folder, or those that a pattern matches.

    A pattern may contain braces, and a folder of images is returned as it is. In a folder, names that start with a dot
    or an underscore are skipped, as in Spark and Hive.

    Raises:
        UsageError: There is no file, a folder contains other folders, or folder names stand for columns.
    """
    with reading(place):
        if place.startswith("hf://"):
            from .hub_files import local_or_url  # imported here, because it loads the hub's client

            place = local_or_url(place)
        literal = "{" not in place or (not is_url(place) and local_path(place).exists())
        names = [place] if literal else expand_braces(place)
        files = [
            file for name in names for file in (_expand_url(name) if is_url(name) else _expand_path(local_path(name)))
        ]
    if not files:
        found = "contains no table" if literal and not _WILD.search(place) else "matches no file"
        raise UsageError(f"{place} {found}; name a table, or a folder of tables, shards or images")
    return files


def list_folder(place: str) -> list[str]:
    """Return the files directly in a folder, in order; empty for any other place.

    Raises:
        TableError: The place cannot be read.
    """
    with reading(place):
        if not is_url(place):
            folder = local_path(place)
            return sorted(str(entry) for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else []
        system, path = _system(place)
        if place.startswith(("http://", "https://")) or not system.isdir(path):
            return []
        entries = system.ls(path, detail=True)
        return sorted(system.unstrip_protocol(entry["name"]) for entry in entries if entry["type"] == "file")


def open_bytes(place: str) -> IO[bytes]:
    """Open a file for reading bytes.

    Raises:
        UsageError, TableError: The file cannot be opened.
    """
    with reading(place):
        if is_url(place):
            system, path = _system(place)
            opened: IO[bytes] = system.open(path, "rb")
            return opened
        return local_path(place).open("rb")


def has_content(place: str) -> bool:
    """Tell whether a file exists and is not empty.

    Raises:
        UsageError, TableError: The place cannot be checked.
    """
    with reading(place):
        if is_url(place):
            system, path = _system(place)
            system.invalidate_cache()
            return bool(system.exists(path) and system.size(path))
        return local_path(place).is_file() and local_path(place).stat().st_size > 0


def upload(local: Path, url: str) -> None:
    """Upload a local file to a URL.

    Raises:
        TableError: The file cannot be uploaded.
    """
    with _writing(url):
        system, path = _system(url)
        system.put_file(str(local), path)


def check_writable(url: str) -> None:
    """Raise, before a long run, the error that `upload` would raise at its end.

    Raises:
        TableError: The URL's folder cannot be written to.
    """
    probe = f"{url}.writable"
    with _writing(url):
        system, path = _system(probe)
        system.pipe_file(path, b"-")
    with suppress(Exception):  # permission to write may not include removing
        system.rm_file(path)


def canonical(place: str) -> str:
    """Return the canonical spelling of a place; a pattern stays a pattern."""
    if is_url(place):
        system, path = _system(place)
        return str(system.unstrip_protocol(path)).rstrip("/")
    local = local_path(place)
    return str(local.absolute() if _WILD.search(str(local)) and not local.exists() else local.resolve())


def content_of(place: str) -> str:
    """Return the hash of a file's content.

    Raises:
        UsageError, TableError: The file cannot be read.
    """
    with reading(place), Hashed(open_bytes(place)) as file:
        return file.finish()


def state_of(place: str) -> str:
    """Return a value that changes when a file is rewritten: its size and time, or its version in a store.

    Raises:
        UsageError, TableError: The file cannot be checked.
    """
    with reading(place):
        if is_url(place):
            system, path = _system(place)
            system.invalidate_cache()
            return str(system.ukey(path))
        found = local_path(place).stat()
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"


def reading(place: str) -> AbstractContextManager[None]:
    """Convert errors of files and stores, raised by a block that reads, into this package's errors."""
    return _explained(place, "read", UsageError(f"{place} does not exist"))


def _writing(place: str) -> AbstractContextManager[None]:
    missing = TableError(f"{place} cannot be written: there is no such bucket or folder")
    return _explained(place, "written", missing)


@contextmanager
def _explained(place: str, done: str, missing: UsageError | TableError) -> Iterator[None]:
    try:
        yield
    except (UsageError, TableError):
        raise
    except FileNotFoundError as exc:
        raise missing from exc
    except OSError as exc:
        hint = _CREDENTIALS if isinstance(exc, PermissionError) and is_url(place) else ""
        raise TableError(f"{place} cannot be {done}: {exc.strerror or exc}{hint}") from exc
    except Exception as exc:
        if not is_url(place):
            raise
        hint = _CREDENTIALS if "credentials" in str(exc).lower() else ""
        raise TableError(f"{place} cannot be {done}: {type(exc).__name__}: {exc}{hint}") from exc


_CREDENTIALS = "; check the credentials, for s3:// those in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except ImportError as exc:
        raise UsageError(
            f"{url} needs a library that is not installed ({exc}); s3:// needs: {install_command('cloud')}"
        ) from exc
    except ValueError as exc:
        raise UsageError(f"{url} is not a URL that fsspec supports: {exc}") from exc
    return system, path


def _expand_path(path: Path) -> list[str]:
    if path.is_dir():
        if holds_images(path):
            return [str(path)]
        entries = [(str(entry), entry.is_dir()) for entry in path.iterdir()]
        return _plain_files(entries, str(path), (found.name for found in path.rglob("*")))
    if path.exists():
        if not path.is_file():
            raise UsageError(f"{path} is not a regular file, but it must be one, because it is read twice")
        return [str(path)]
    if _WILD.search(str(path)):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - the pattern may start at any folder
        return _unpartitioned(str(path), sorted(name for name in found if Path(name).is_file()))
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise UsageError(f"{path} does not exist{where}")


def _expand_url(url: str) -> list[str]:
    system, path = _system(url)
    if url.startswith(("http://", "https://")):  # a question mark begins a query in these URLs
        return [url]
    if system.isdir(path):
        entries = [
            (system.unstrip_protocol(entry["name"]), entry["type"] == "directory")
            for entry in system.ls(path, detail=True)
            if entry["name"].rstrip("/") != path.rstrip("/")  # the S3 console creates an empty object for a folder
        ]
        inside = (name for _, _, names in system.walk(path) for name in names)
        return _plain_files(entries, url, inside)
    if system.exists(path):
        return [url]
    if _WILD.search(path):
        return [system.unstrip_protocol(found) for found in _unpartitioned(path, sorted(system.glob(path)))]
    raise UsageError(f"{url} does not exist; check the bucket and the path")


def _plain_files(entries: Iterable[tuple[str, bool]], folder: str, inside: Iterable[str]) -> list[str]:
    """Return the files of a folder that has no subfolders.

    Args:
        entries: Entries of the folder: names, and whether each is a folder.
        folder: Name of the folder.
        inside: Names of files in the folder, at any depth.
    """
    shown = [
        (name, deep) for name, deep in sorted(entries) if not name.rstrip("/").rpartition("/")[2].startswith((".", "_"))
    ]
    for name, deep in shown:
        if deep:
            _check_partition(name, Path(name).parts[-1:])
            ending = next(filter(None, map(ending_of, (*(each for each, _ in shown), *inside))), None)
            if ending is None:
                raise UsageError(f"{folder} contains the folder {name}, but no table, not even in its subfolders")
            depth = "" if any(ending_of(each) for each, _ in shown) else "**/"
            raise UsageError(
                f"{folder} contains the folder {name}; name the files with a pattern such as "
                f'"{folder.rstrip("/")}/{depth}*{ending}"; relative image paths then start from {folder}'
            )
    return shards_among([name for name, _ in shown])


def _unpartitioned(pattern: str, found: list[str]) -> list[str]:
    """Return the matches of a pattern, unless a folder that is not named in full stands for a column."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if _WILD.search(part))
    for name in found:
        _check_partition(name, Path(name).parts[fixed:-1])
    return found


def _check_partition(name: str, folders: Sequence[str]) -> None:
    for folder in filter(_PARTITION.fullmatch, folders):
        raise UsageError(
            f"{name} belongs to the partition {folder}, whose column is not in the files and would be lost; write the "
            "table as one file with pandas or Spark, or score one partition at a time, each named in full"
        )
