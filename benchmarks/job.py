"""A measurement in a separate process: `run_job` starts it, watches its memory and reads its result.

The process is `python -m benchmarks.job MODULE:FUNCTION ARGUMENTS FILE`: it calls the function with the arguments, a
JSON object, and writes the object that it returns to the file, together with its peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any

from .inputs import BUILD, INPUTS, ROOT
from .meter import family_mib, peak_mib
from .server import serving

LIMIT_S = 7200
SAMPLE_S = 2.0  # infrequent, because sampling takes time from the measured process
# No model hub, no telemetry of peers, and exported models next to the results instead of in the user's cache.
_ENVIRONMENT = {
    "XDG_CACHE_HOME": str(BUILD / "cache"),
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
    "WANDB_MODE": "disabled",
}
# All contestants may use all cores; some libraries respect these limits and others do not, so a limit would favour
# some.
_THREADS = frozenset({"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"})


@dataclass(frozen=True, slots=True)
class Job:
    """A measurement for one process.

    Args:
        name: A name that is unique within its section.
        function: The function to call, as `module:function`; it must return a JSON object.
        arguments: Keyword arguments of the function.
        delay_ms: If not None, the loopback server responds with this delay, and its address is added to `arguments` as
            `server`.
        served: The folder whose photos the server serves.
        python: The interpreter, for peers that need a separate environment.
    """

    name: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    delay_ms: float | None = None
    served: str = str(INPUTS)
    python: str = sys.executable


def run_job(job: Job) -> dict[str, Any]:
    """Run a job and return its result, or `{"failed": reason}`."""
    with tempfile.TemporaryDirectory() as folder, serving(job.delay_ms, Path(job.served)) as server:
        out, log = Path(folder) / "found.json", Path(folder) / "log.txt"
        arguments = job.arguments | ({"server": server} if server else {})
        command = [job.python, "-m", "benchmarks.job", job.function, json.dumps(arguments), str(out)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=_environment())
            peak = _watch(process)
        if process.returncode or not out.exists():
            return {"failed": _last_line(log.read_text(encoding="utf-8", errors="replace"))}
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found | {"peak_mib": round(max(found["peak_mib"], peak))}


class Beside:
    """A function that runs in a separate process during a `with` block, whose end also ends the process.

    Args:
        function: The function to call, as `module:function`; it must return a JSON object.
        arguments: Keyword arguments of the function.
    """

    def __init__(self, function: str, **arguments: Any) -> None:
        self._function, self._arguments = function, arguments

    def __enter__(self) -> Beside:
        self._folder = tempfile.TemporaryDirectory()
        self._out = Path(self._folder.name) / "found.json"
        command = [sys.executable, "-m", "benchmarks.job", self._function, json.dumps(self._arguments), str(self._out)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=_environment())
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()

    def found(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the function to finish, and return its result.

        Raises:
            RuntimeError: The function failed; the reason is on stderr.
        """
        if self.process.wait(timeout_s):
            raise RuntimeError(f"{self._function} failed")
        found: dict[str, Any] = json.loads(self._out.read_text(encoding="utf-8"))
        return found


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _THREADS} | _ENVIRONMENT


def _watch(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process, and return the most memory that it was seen to use together with its descendants, in MiB."""
    peaks, ended = [0.0], Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            peaks.append(family_mib(process.pid))

    watcher = Thread(target=sample)
    watcher.start()
    try:
        # A killed process counts as failed, with its last line of output as the reason.
        with suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        ended.set()
        watcher.join()
    return max(peaks)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it ended without a message"


def main() -> None:
    function, arguments, out = sys.argv[1:]
    module, _, name = function.partition(":")
    found = getattr(import_module(module), name)(**json.loads(arguments))
    Path(out).write_text(json.dumps({**found, "peak_mib": peak_mib()}), encoding="utf-8")


if __name__ == "__main__":
    main()
