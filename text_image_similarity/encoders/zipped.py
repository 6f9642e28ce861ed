"""Find this package's data files when the package is in a zip archive, as it is on Spark's workers."""

from __future__ import annotations

from pathlib import Path


def mini_folder() -> Path:
    """Return the folder of `mini`, the model that comes with this package."""
    return on_disk(Path(__file__).resolve().parent.parent / "weights" / "mini")


def on_disk(folder: Path) -> Path:
    """Return a folder of this package, after copying it to the user's cache folder if it is in a zip archive.

    If that folder cannot be used, each process makes its own copy, and deletes it at exit.
    """
    archive = next((place for place in folder.parents if place.is_file()), None)
    if archive is None:
        return folder
    # Imported here because they are needed only for an archive.
    import atexit
    import tempfile
    from contextlib import ExitStack
    from hashlib import blake2b
    from zipfile import ZipFile

    from platformdirs import user_cache_path

    from ..errors import UsageError
    from ..folders import private_folder

    inside = folder.relative_to(archive).as_posix() + "/"
    with ZipFile(archive) as zipped, ExitStack() as held:
        members = sorted((m.filename, m.CRC, m.file_size) for m in zipped.infolist() if m.filename.startswith(inside))
        names = [name for name, _, _ in members]
        place = user_cache_path("text-image-similarity") / "packaged" / blake2b(repr(members).encode()).hexdigest()[:32]
        if place.is_dir():
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            staging = held.enter_context(private_folder(place.parent))
        except (OSError, UsageError):  # no home folder, or another user's link in its path
            staging = held.enter_context(private_folder(Path(tempfile.gettempdir())))
            zipped.extractall(staging, names)
            atexit.register(held.pop_all().close)
            return staging / inside
        zipped.extractall(staging, names)
        try:
            (staging / inside).rename(place)  # if two processes copy at the same time, one wins
        except OSError:
            if not place.is_dir():
                raise
    return place
