"""Find this package's data files when the package is in a zip archive, as it is on Spark's workers."""

from __future__ import annotations

from pathlib import Path


def mini_folder() -> Path:
    """Return the folder of `mini`, the model that comes with this package."""
    return on_disk(Path(__file__).resolve().parent.parent / "weights" / "mini")


def on_disk(folder: Path) -> Path:
    """Return a folder of this package, after copying it to the user's cache folder if it is in a zip archive."""
    archive = next((place for place in folder.parents if place.is_file()), None)
    if archive is None:
        return folder
    # Imported here because they are needed only for an archive.
    import shutil
    import tempfile
    from hashlib import blake2b
    from zipfile import ZipFile

    from platformdirs import user_cache_path

    inside = folder.relative_to(archive).as_posix() + "/"
    with ZipFile(archive) as zipped:
        members = sorted((m.filename, m.CRC, m.file_size) for m in zipped.infolist() if m.filename.startswith(inside))
        place = user_cache_path("text-image-similarity") / "packaged" / blake2b(repr(members).encode()).hexdigest()[:32]
        if place.is_dir():
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=place.parent))
        except OSError:  # a user without a home folder: each process makes its own copy
            partial = Path(tempfile.mkdtemp(prefix="text-image-similarity-"))
            place = partial / "whole"
        zipped.extractall(partial, [name for name, _, _ in members])
    try:
        (partial / inside).rename(place)  # if two processes copy at the same time, one wins
    except OSError:
        if not place.is_dir():
            raise
    if not place.is_relative_to(partial):
        shutil.rmtree(partial, ignore_errors=True)
    return place
