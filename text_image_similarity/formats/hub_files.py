"""Files of data sets on the hub, `hf://datasets/<owner>/<name>[@revision]/<path>`, from the hub or its cache.

The hub is contacted first, with a short timeout. If the hub responds, fsspec streams the files; otherwise, files that
`hf download` or `datasets` left in the hub's cache are read.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.file_download import repo_folder_name

from ..errors import TableError, UsageError
from ..system import call_within

PROBE_S = 4.0  # timeout of the first request to the hub
_FILE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", re.DOTALL)


def hub_home(place: str) -> Path:
    """Return the folder of a data set, `hf:<owner>/<name>[:configuration][@split]`, in the hub's cache."""
    name = re.split("[:@]", place.removeprefix("hf:"))[0]
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")


def local_or_url(place: str) -> str:
    """Return a place on the hub, or its place in the hub's cache if the hub is unreachable.

    Args:
        place: A URL that begins with `hf://`.

    Raises:
        UsageError: The hub has no such data set, or it requires a login.
        TableError: The hub is unreachable, and its cache does not contain the data set.
    """
    found = _FILE.fullmatch(place)
    if found is None:
        return place
    name, revision, path = found[1], found[2], found[3] or ""
    try:
        call_within(PROBE_S, lambda: HfApi().dataset_info(name, timeout=PROBE_S), name="hub-probe")
        return place
    except (HfHubHTTPError, HFValidationError) as exc:
        if not isinstance(exc, HFValidationError) and exc.response.status_code not in (401, 403, 404):
            return _cached(name, revision, path, exc)
        raise UsageError(f"the hub has no readable data set {name}: {str(exc).strip().splitlines()[-1]}") from exc
    except Exception as exc:  # any exception of the network
        return _cached(name, revision, path, exc)


def _cached(name: str, revision: str | None, path: str, problem: Exception) -> str:
    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    ref = home / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or ""
    snapshot = home / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        raise TableError(
            f"data set {name} is not in the hub's cache and the hub cannot be reached ({type(problem).__name__}).\n"
            "Your options:\n"
            f"  a filled cache:  hf download --repo-type dataset {name} on a machine with network access, "
            "then copy its HF_HOME here\n"
            "  local files:     name a folder or a pattern of files on this machine"
        ) from problem
    return str(snapshot / path)
