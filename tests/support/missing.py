"""Python processes in which chosen libraries are not installed, whatever the environment holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

_HIDE = """
import sys
from importlib.machinery import PathFinder

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def run_without(hidden: Iterable[str], code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program for which some libraries can be neither imported nor found.

    Args:
        hidden: The libraries' top-level names.
        code: The program.
        environment: Variables to set besides this process's.
    """
    return subprocess.run(
        [sys.executable, "-c", _HIDE.format(hidden=set(hidden)) + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
