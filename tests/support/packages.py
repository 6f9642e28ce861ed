"""The package as its wheel holds it, for workers that get it as a zip."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import text_image_similarity

PACKAGE = Path(text_image_similarity.__file__).parent


def zip_package(folder: Path) -> Path:
    """Write the package's files into a zip, and return its path."""
    place = folder / "text_image_similarity.zip"
    with ZipFile(place, "w", ZIP_DEFLATED, compresslevel=1) as zipped:
        for path in sorted(PACKAGE.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                zipped.write(path, path.relative_to(PACKAGE.parent))
    return place
