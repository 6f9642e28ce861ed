"""The command line: a thin layer with one subcommand for each public function.

Each command has its own file: `add(commands)` adds its parser, whose `run` does the work and returns the exit code.
Exit codes: 0 success, 1 the job failed, 2 wrong usage, 3 another run is writing the output, 4 no row has a score or
more rows failed than allowed, 130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

from .main import main, run_script

__all__ = [
    "main",
    "run_script",
]
