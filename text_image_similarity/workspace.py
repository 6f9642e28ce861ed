"""The folder where a run keeps its finished parts until the output is assembled, so that the run can stop and resume.

    out.csv.parts/
        manifest.jsonl      description of the run, then a line for each finished part
        part-000000.csv     the part's rows with their results, in the output's format (Arrow for Parquet)
        output              hash of the output that is being moved into place
        lock, holder.json   held by the current run

A part is written under another name, flushed to disk, renamed, and then entered into the manifest. No matter how a run
ends, a part is either in the manifest with the hash of its file, or is scored again.
Only this user may enter the folder.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from .bounded_json import parse_json
from .errors import TableError, UsageError
from .files import move_durably, open_own
from .folder_lock import FolderLock
from .folders import shown
from .parts_folder import MANIFEST, PART, UntrustedError, check_made_by_run, read_trusted

logger = logging.getLogger("text_image_similarity")

_LAYOUT = 1  # version of the folder's layout; a run does not resume from another version


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part, as recorded in the manifest.

    Args:
        number: Number of the part, from 0.
        rows: Number of rows.
        digest: Hash of the part's file.
        scored: Number of rows that have a score.
        failures: Number of failed rows by error code.
        captions_cut: Number of captions that were truncated, or None if unknown.
        seconds: Seconds by stage, summed over threads; `total` is wall-clock time.
        scores: Histogram of the scores, as `metrics.Histogram.kept` writes it, or None if they are not counted.
    """

    number: int
    rows: int
    digest: str
    scored: int
    failures: dict[str, int]
    captions_cut: int | None
    seconds: dict[str, float]
    scores: dict[str, Any] | None = None


class Workspace:
    """The folder of a run's parts, which one process at a time may use.

    Args:
        folder: Folder of the parts; created if it does not exist, and removed at the end unless it has parts to resume.
        output: The table that the run writes, for messages.
        ending: Suffix of the parts' file names.
    """

    def __init__(self, folder: Path, output: str, ending: str) -> None:
        self._folder = folder
        self._output = output
        self._ending = ending
        self._lock = FolderLock(folder, output, own=True, check=lambda inside: check_made_by_run(inside, folder))
        self._finished = False
        self.parts: list[Part] = []
        self.warnings: list[str] = []  # for people who use the scores

    def __enter__(self) -> Workspace:
        with self._explained():
            self._lock.acquire()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            with suppress(OSError, UsageError):  # files that cannot be removed do no harm
                if self._finished or len(self._read()[0]) < 2:
                    self._remove()
        finally:
            self._lock.release()

    def begin(self, run: dict[str, Any], versions: dict[str, str], *, restart: bool) -> None:
        """Resume from the parts of an earlier run, or start from scratch; `parts` then lists the finished parts.

        Args:
            run: Description of the run; only a run with an equal description may resume.
            versions: Versions of the libraries that scores depend on; a run with other versions resumes with a warning.
            restart: Whether to discard the parts of an earlier run.

        Raises:
            UsageError: The parts belong to another run; the message states the differences.
            TableError: The folder cannot be used.
        """
        header = {"layout": _LAYOUT, "versions": versions, "run": json.loads(json.dumps(run, default=str))}
        with self._explained():
            lines, why = ([], "") if restart else self._read()
            if why:
                logger.warning("%s %s; all its parts are scored again", shown(self._manifest), why)
            self._compare(lines, header)
            self.parts = self._intact(lines[1:])
            self._clear({self._path(part.number) for part in self.parts})
            fresh = self.scratch("manifest")
            with open_own(fresh, "w") as file:
                file.writelines(f"{json.dumps(line)}\n" for line in [header, *map(asdict, self.parts)])
            move_durably(fresh, self._manifest)

    def _compare(self, lines: list[dict[str, Any]], header: dict[str, Any]) -> None:
        if len(lines) < 2:
            return
        then = lines[0]
        if found := changes({**then, "versions": header["versions"]}, header):
            raise UsageError(
                f"{self._folder} contains finished parts ({len(lines) - 1:,}) of a run that differs: {'; '.join(found)}. "
                "Resume with the earlier settings, or discard the parts with --restart (start='restart')"
            )
        if found := changes(then.get("versions", {}), header["versions"]):
            said = "some rows were scored with other versions, so the last digits of scores may differ"
            warning = f"{said}: {'; '.join(found)}"
            self.warnings.append(warning)
            logger.warning("%s", warning)

    def begun(self) -> tuple[dict[str, Any], bool] | None:
        """Return the description of the parts' run, and whether all parts are finished; None if there are no parts."""
        lines, _ = self._read()
        if len(lines) < 2 or "run" not in lines[0]:
            return None
        run = dict(lines[0]["run"])
        return run, sum(line.get("rows", 0) for line in lines[1:]) == run.get("input_rows")

    def origin(self) -> str:
        """Return the place and time of the first finished part, for a message: someone else may have put it there."""
        since = time.localtime(self._path(0).stat().st_mtime)
        return f"{self._folder}, begun {time.strftime('%Y-%m-%d %H:%M', since)}"

    def commit(self, part: Part, data: bytes | memoryview) -> None:
        """Save a finished part.

        Raises:
            TableError: The part cannot be written; earlier parts are kept.
        """
        path = self._path(part.number)
        partial = path.with_name(path.name + ".partial")
        with self._explained():
            self._lock.check()
            with open_own(partial, "wb") as file:
                file.write(data)
            move_durably(partial, path)
            with open_own(self._manifest, "a") as file:
                file.write(json.dumps(asdict(part)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self.parts.append(part)

    def contents(self) -> Iterator[bytes]:
        """Yield the contents of the parts, in order.

        Raises:
            TableError: A part's file cannot be read, or was changed after it was written.
        """
        for part in self.parts:
            path = self._path(part.number)
            try:
                data = self._content(part)
            except (OSError, ValueError) as exc:
                why = exc.strerror if isinstance(exc, OSError) else exc
                raise TableError(
                    f"{self._output} was not written, because part {part.number} is lost ({shown(path)}: {why}); the same "
                    "command scores it and all later parts again"
                ) from exc
            yield data

    def placing(self, content: str) -> None:
        """Record the hash of the output that is about to be moved into place, so that a later run can recognise it."""
        self._lock.check()
        with open_own(self._placed, "w") as file:
            file.write(content)

    def placed(self) -> str | None:
        """Return the hash of the output that a run was about to move into place when it ended, or None."""
        try:
            return read_trusted(self._placed).decode()
        except (OSError, ValueError):
            return None

    def finish(self) -> None:
        """Record that the output is in place, so that the parts are no longer needed."""
        self._finished = True

    def scratch(self, name: Literal["manifest", "output", "summary"]) -> Path:
        """Return a path for a temporary file that no other run uses."""
        return self.folder / f"part-{name}.partial"

    @property
    def folder(self) -> Path:
        """The folder's path for reading and writing; on Linux, it leads to the same folder while the lock is held."""
        return self._lock.inside

    @property
    def _manifest(self) -> Path:
        return self.folder / MANIFEST

    @property
    def _placed(self) -> Path:
        return self.folder / "output"

    def _remove(self) -> None:
        """Remove a run's files, the manifest first, so that leftovers cannot be mistaken for a run to resume."""
        self._lock.check()
        self._manifest.unlink(missing_ok=True)
        self._placed.unlink(missing_ok=True)
        self._clear(set())
        self._lock.remove()
        self._folder.rmdir()

    def _clear(self, kept: set[Path]) -> None:
        self._lock.check()
        for path in self.folder.glob("part-*"):
            if path not in kept and PART.fullmatch(path.name):
                path.unlink()

    def _read(self) -> tuple[list[dict[str, Any]], str]:
        """Return the lines of the manifest before the first one that cannot be read, such as one that was cut off.

        If there is a manifest of which no line can be read, the text states the reason.
        """
        lines: list[dict[str, Any]] = []
        try:
            whole = read_trusted(self._manifest)
        except FileNotFoundError:
            return lines, ""
        except UntrustedError:
            return lines, "may have been changed by other users"
        for line in whole.splitlines():
            try:
                lines.append(dict(parse_json(line.decode(errors="replace"))))
            except (ValueError, TypeError):
                break
        return lines, "" if lines else "cannot be read"

    def _intact(self, lines: list[dict[str, Any]]) -> list[Part]:
        """Return the parts before the first one whose file differs from the manifest."""
        parts: list[Part] = []
        for line in lines:
            try:
                part = Part(**line)
                if part.number != len(parts):
                    raise ValueError("its number is wrong")
                self._content(part)
            except (OSError, ValueError, TypeError) as exc:
                logger.warning(
                    "part %d of %s is lost (%s); it and all later parts will be scored again",
                    len(parts),
                    self._folder,
                    exc,
                )
                break
            parts.append(part)
        return parts

    def _content(self, part: Part) -> bytes:
        """Return the content of a part's file.

        Raises:
            ValueError: The file was changed after it was written, or other users may write to it.
            OSError: The file cannot be read.
        """
        data = read_trusted(self._path(part.number))
        if digest_of(data) != part.digest:
            raise ValueError("its content has changed")
        return data

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.{self._ending}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            kept = (
                f"; finished parts ({len(self.parts):,}) are kept, and the same command resumes" if self.parts else ""
            )
            where = shown(Path(exc.filename)) if isinstance(exc.filename, str) else self._folder
            raise TableError(f"{self._output} cannot be written: {exc.strerror or exc} ({where}){kept}") from exc


def digest_of(data: bytes | memoryview) -> str:
    """Return the hash of a part or of other bytes, as hexadecimal digits."""
    return blake2b(data, digest_size=16).hexdigest()


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the differences between two descriptions of a run, down to individual settings."""
    found = []
    for name in dict.fromkeys([*then, *now]):
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after)
        elif before != after:
            found.append(f"{name} was {_short(before)} and is now {_short(after)}")
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:76] + " ..."
