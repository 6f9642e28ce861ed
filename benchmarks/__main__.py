"""Measure this package and its peers: `python -m benchmarks [--only NAME ...] [--render]`.

Missing inputs are created. The jobs of a section run one after the other, each in a separate process, round by round,
so that a slow minute of the machine affects all of them. Results are kept in build/benchmarks/results.json, from which
the page's tables and plot are written; a job that runs again replaces its earlier results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .inputs import PHOTOS, ROOT, make_inputs
from .job import Job, run_job
from .render import render
from .results import Options, Results, Section, load_results, machine
from .sections import NAMES, all_sections


def main() -> None:
    given = _arguments()
    results = load_results()
    if not given.render and (chosen := _chosen(given)):
        make_inputs(given.data)
        results.machine = machine()
        for section, jobs in chosen:
            _measure(section, jobs, given.rounds, results)
    if given.page.exists():
        render(results, given.page)


def _measure(section: Section, jobs: list[Job], rounds: int, results: Results) -> None:
    results.forget(section.name, [job.name for job in jobs])
    for number in range(min(rounds, section.rounds)):
        for job in jobs:
            if job.name in results.failed.get(section.name, {}):
                continue
            found = run_job(job)
            results.add(section.name, job.name, found)
            results.save()
            said = found.get("failed") or (f"{found['seconds']:.2f} s" if "seconds" in found else "done")
            print(f"{section.name}, round {number + 1}, {job.name}: {said}", flush=True)


def _chosen(given: argparse.Namespace) -> list[tuple[Section, list[Job]]]:
    pythons = {"infinity": given.infinity_python, "clip-retrieval": given.clip_retrieval_python}
    pythons = {name: path for name, path in pythons.items() if path}
    options = Options(
        pairs=given.pairs or 200,
        mini_pairs=given.pairs or 1000,
        engine_pairs=given.pairs or PHOTOS,
        gpu_pairs=given.pairs or 10 * PHOTOS,
        rows=given.rows,
        vectors=given.vectors,
        overload_s=given.overload_seconds,
        restarts=given.restarts,
        pythons=pythons,
        data=given.data.resolve(),
    )
    chosen = []
    for section in all_sections():
        jobs = section.jobs(options)
        if given.only and section.name not in given.only:
            jobs = [job for job in jobs if job.name in given.only]
        if jobs and (lacking := section.lacks()):
            print(f"{section.name}: not measured: {lacking}", flush=True)
        elif jobs:
            chosen.append((section, jobs))
    return chosen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.partition(":")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="number of times that each job runs (default: %(default)s)")
    add(
        "--pairs",
        type=int,
        help="rows each job scores (default: 200 with ViT-B/32, 1000 with mini, 2000 with engines and the service, 20000 on a GPU)",
    )
    add(
        "--rows", type=int, default=1_000_000, help="maximum number of rows of the growing table (default: %(default)s)"
    )
    add(
        "--vectors",
        type=int,
        default=200_000,
        help="number of vectors in the stores that are searched (default: %(default)s)",
    )
    add("--overload-seconds", type=float, default=120, help="duration of the overload (default: %(default)s)")
    add(
        "--restarts",
        type=int,
        default=20,
        help="number of times that replicas are restarted under load (default: %(default)s)",
    )
    add("--only", nargs="+", metavar="NAME", help=f"jobs, contestants or sections ({', '.join(NAMES)})")
    add("--render", action="store_true", help="only write the page, without measuring")
    add(
        "--data",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="folder with flickr8k/train.parquet and flickr8k/validation.parquet",
    )
    add("--page", type=Path, default=ROOT / "docs" / "performance.md", help="page with the markers")
    add("--infinity-python", metavar="PATH", help="interpreter with infinity-emb")
    add("--clip-retrieval-python", metavar="PATH", help="interpreter with clip-retrieval")
    return parser.parse_args()


if __name__ == "__main__":
    main()
