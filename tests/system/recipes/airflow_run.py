"""Runs the Airflow recipe with `dag.test()`, in Airflow's own environment: FOLDER of the recipe, then each run's parameters.

After each run it prints a line of JSON: the run's state, and each task instance's state and tries.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta


def main(folder: str, *runs: str) -> None:
    sys.path.insert(0, folder)
    from score_pairs_dag import score_pairs_dag

    for task in score_pairs_dag.tasks:  # a test does not wait
        if task.is_mapped:
            task.partial_kwargs["retry_delay"] = timedelta(0)
        else:
            task.retry_delay = timedelta(0)
    for params in runs:
        run = score_pairs_dag.test(logical_date=datetime(2026, 1, 3, 2, 30, tzinfo=UTC), run_conf=json.loads(params))
        tasks = [[task.task_id, task.map_index, str(task.state), task.try_number] for task in run.get_task_instances()]
        sys.stdout.write(json.dumps([str(run.state), tasks]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
