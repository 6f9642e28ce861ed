"""Images as `scripts/build_image.sh` builds them, and processes on their roots: no daemon, no registry, but root is needed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.support.processes import tool

# In a mount namespace of its own. Arguments: the root, the user, the command; MOUNTS has a line "PLACE INSIDE" for each.
_ENTER = """
set -e
root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount --bind /proc "$root/proc"
printf %s "$MOUNTS" | while read -r place inside; do mkdir "$root$inside" && mount --bind "$place" "$root$inside"; done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" /usr/bin/env --ignore-environment "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image.

    Args:
        root: Its files.
        config: What its Dockerfile says of how to run it, under the names of the OCI's specification.
    """

    root: Path
    config: dict[str, Any]

    @property
    def bytes(self) -> int:
        """What its files take, each once."""
        found = {(s.st_dev, s.st_ino): s.st_size for s in map(os.lstat, self.root.rglob("*"))}
        return sum(found.values())

    def command(self, *arguments: str | Path, mounts: Sequence[tuple[Path, str]] = ()) -> list[str]:
        """Return what runs it as its user, on a root that cannot be written to, with an empty /tmp and this machine's network.

        Args:
            arguments: In place of the image's own, behind its entry point.
            mounts: Folders, each with where it is in the image's root, such as `/out`.
        """
        words = [*self.config.get("Entrypoint", []), *(arguments or self.config.get("Cmd", []))]
        user = self.config.get("User", "0")
        lines = "".join(f"{place} {inside}\n" for place, inside in mounts)
        enter = ["env", f"MOUNTS={lines}", "unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
        folder = self.config.get("WorkingDir") or "/"
        return [*enter, str(self.root), f"{user}:{user}", f"--chdir={folder}", *self.config["Env"], *map(str, words)]


def build(dockerfile: Path, name: str, context: Path, *options: str) -> None:
    """Build an image from a Dockerfile; what it prints is kept for the report of a failed test."""
    tool("buildah")
    command: list[str | Path] = [ROOT / "scripts" / "build_image.sh", dockerfile, name, context, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@contextmanager
def opened(name: str, images: Path) -> Iterator[Image]:
    """Lay out a copy of an image's files, which is removed when the block ends.

    Args:
        name: The image.
        images: Where images are kept, as IMAGE_STORE says for scripts/build_image.sh.
    """

    def buildah(*words: str) -> str:
        driver = "overlay" if (images / "storage" / "overlay").exists() else "vfs"
        command = ["--storage-driver", driver, "--root", str(images / "storage"), "--runroot", str(images / "run")]
        environment = {**os.environ, "HOME": str(images / "home")}
        return subprocess.check_output([tool("buildah"), *command, *words], env=environment, text=True).strip()

    config = json.loads(buildah("inspect", "--type", "image", f"localhost/{name}"))["OCIv1"]["config"]
    container = buildah("from", "--pull-never", f"localhost/{name}")
    try:
        yield Image(Path(buildah("mount", container)), config)
    finally:
        buildah("rm", container)
