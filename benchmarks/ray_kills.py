"""Measure what a killed replica costs the service on Ray Serve: `python -m benchmarks.ray_kills [--replicas 2]`.

Clients send one pair per request, and the next one after the response, while replicas are killed (SIGKILL) one after
the other, each once the replacement of the previous one is up. A request is lost if the client gets no score for it.
For the last row of the table, nothing is killed: changed settings are deployed, which replaces all replicas. The output
is the table in docs/ray_serve.md.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tests.support.clock import wait_for
from tests.support.ray_services import Load, deploy, kill_one, pairs_of_colours, ray_serve, replicas

MINI = {"model": "mini", "num_cpus": 0.5}


def main() -> None:
    given = _arguments()
    warnings.simplefilter("ignore")
    requests = pairs_of_colours(50)
    lines = []
    with tempfile.TemporaryDirectory() as folder, ray_serve(num_cpus=4) as url:
        args = _args(given.replicas)
        _deploy(args, Path(folder))
        for deployment in ("model-mini", "gateway"):
            with Load(url, requests, given.clients) as load:
                wait_for(load.answered(100))
                for _ in range(given.kills):
                    kill_one(deployment)
                    wait_for(load.answered(200))
            lines.append([f"{deployment}, 1 of {given.replicas}", given.kills, load])
        with Load(url, requests, given.clients) as load:
            for number in range(given.deploys):
                wait_for(load.answered(100))
                _deploy(args | {"max_queue": 65 + number}, Path(folder))
        lines.append([f"all, {given.replicas} of each, by `serve run` with changed settings", given.deploys, load])
    print("| replaced | times | requests | lost | slowest response |\n|---|--:|--:|--:|--:|")
    for label, times, load in lines:
        lost = sum(load.lost.values())
        print(f"| {label} | {times} | {load.sent:,} | {lost} | {load.slowest:.1f} s |")
    for label, _, load in lines:
        if load.lost:
            print(f"\n{label}: {dict(load.lost)}")


def _args(replicas: int) -> dict[str, Any]:
    return {
        "models": {"mini": MINI | {"min_replicas": replicas}},
        "gateway": {"num_cpus": 0.5, "min_replicas": replicas},
        "cache_entries": 1,
    }


def _deploy(args: dict[str, Any], folder: Path) -> None:
    """Deploy the service, and wait until it matches the arguments and all earlier replicas are gone."""
    earlier = {*replicas("model-mini"), *replicas("gateway")}
    deploy(args, folder)
    wanted = args["gateway"]["min_replicas"]

    def there() -> bool:
        found = (replicas("model-mini"), replicas("gateway"))
        return all(len(some) == wanted for some in found) and not earlier & {*found[0], *found[1]}

    wait_for(there, 120)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.ray_kills", description=__doc__.partition(":")[0])
    parser.add_argument(
        "--kills", type=int, default=10, help="number of replicas to kill for each row (default: %(default)s)"
    )
    parser.add_argument(
        "--deploys", type=int, default=5, help="number of deployments with changed settings (default: %(default)s)"
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=1,
        help="number of replicas of the model, and of gateways (default: %(default)s)",
    )
    parser.add_argument("--clients", type=int, default=16, help="number of concurrent requests (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
