"""Print the index that Poetry should use as a mirror, or nothing if its own index responds.

In addition to the simple index, Poetry reads a JSON API, which company mirrors often lack. If a mirror lacks this API,
Poetry's mirror plug-in can take the packages from the index that pip is configured for. Run this with the Python in
which Poetry is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request

from pip._internal.models.index import PyPI


def json_api_answers() -> bool:
    """Tell whether one small package is available in the two JSON formats that Poetry reads."""
    pages = (f"{PyPI.simple_url}/poetry-core/", f"{PyPI.pypi_url}/poetry-core/2.1.0/json")
    headers = {"Accept": "application/vnd.pypi.simple.v1+json, application/json"}
    try:
        for page in pages:
            with urllib.request.urlopen(urllib.request.Request(page, headers=headers), timeout=10) as answer:
                if answer.read(1) != b"{":
                    return False
    except OSError:
        return False
    return True


def pip_index() -> str:
    """Return the simple index that pip is configured for, or its built-in default."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = dict(line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)
    for name in (":env:.index-url", "install.index-url", "global.index-url"):
        if name in settings:
            return settings[name].strip("'\"")
    return PyPI.simple_url


if __name__ == "__main__":
    print(os.environ.get("POETRY_PYPI_MIRROR_URL") or ("" if json_api_answers() else pip_index()))
