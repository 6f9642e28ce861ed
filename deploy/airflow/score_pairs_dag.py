"""Score every file of a day: one mapped task per file, and a check of all summaries at the end.

Scoring runs in a separate environment, because its libraries conflict with Airflow's:

    python -m venv /opt/scoring && /opt/scoring/bin/pip install "$(echo dist/*.whl)[cloud,onnx]"

Every worker needs this environment; if it is elsewhere, SCORING_PYTHON names its interpreter. A retried task keeps the
parts that the previous attempt finished. Written for Airflow 3.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronDataIntervalTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

SCORING_PYTHON = os.environ.get("SCORING_PYTHON", "/opt/scoring/bin/python")
AT_ONCE = 4  # files in progress at a time, across all runs


class ScoreOperator(BashOperator):
    """Runs the command `score`, and does not retry after exit code 2, which means wrong usage.

    Airflow stops a task with SIGTERM; the command then finishes its current part before it exits.
    """

    def execute(self, context: Any) -> Any:
        """Run the command."""
        try:
            return super().execute(context)
        except AirflowException as error:
            if str(error).endswith("exit code 2."):
                raise AirflowFailException("the log says what to fix") from error
            raise


@dag(
    # A run processes the previous day, whose files are complete. (Since Airflow 3, a plain cron string means the
    # day that has just begun.)
    schedule=CronDataIntervalTimetable("30 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    params={
        "input": Param(
            "s3://lake/pairs/{day}/*.parquet", type="string", description="files to score; {day} is YYYY-MM-DD"
        ),
        "output": Param(
            "s3://lake/scored/{day}", type="string", description="folder for the scores; each file keeps its name"
        ),
        "day": Param(None, type=["null", "string"], description="day to score instead of that of the run's interval"),
        "model": Param("fast", type="string"),
        "work_dir": Param(
            None,
            type=["null", "string"],
            description="folder for finished parts that all workers share; set it if output is a URL",
        ),
        "max_failure_share": Param(
            0.05, type="number", minimum=0, maximum=1, description="largest share of the day's rows that may fail"
        ),
    },
    tags=["text-image-similarity"],
)
def score_pairs() -> None:
    """Score the images and captions of a day."""

    @task
    def places() -> dict[str, Any]:
        """Return the run's input pattern and output folder, with its model and work folder."""
        context = get_current_context()
        params = context["params"]
        day = params["day"] or context["data_interval_start"].strftime("%Y-%m-%d")
        filled = {name: params[name].replace("{day}", day) for name in ("input", "output")}
        return {**filled, "model": params["model"], "work_dir": params["work_dir"]}

    @task.external_python(python=SCORING_PYTHON, expect_airflow=False, retries=2)
    def list_files(places: dict[str, str]) -> list[dict[str, str]]:
        """Return the arguments of each mapped task; raise an error if no file matches."""
        from pathlib import Path

        from text_image_similarity.formats import is_url
        from text_image_similarity.formats.storage import expand

        files = expand(places["input"])
        names = [file.rpartition("/")[2] for file in files]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"several files are named {min(twice)}, so their scores would be written to the same file")
        if not is_url(places["output"]):
            Path(places["output"]).mkdir(parents=True, exist_ok=True)
        folder = places["output"].rstrip("/")
        more = {"MODEL": places["model"], "WORK_DIR": places["work_dir"] or ""}
        return [{"IN": file, "OUT": f"{folder}/{name}", **more} for file, name in zip(files, names, strict=True)]

    score = ScoreOperator.partial(
        task_id="score",
        bash_command=f'"{SCORING_PYTHON}" -m text_image_similarity score "$IN" "$OUT" --model "$MODEL" --isolate-decoder '
        '${WORK_DIR:+--work-dir "$WORK_DIR"}',
        append_env=True,
        retries=3,
        retry_delay=timedelta(minutes=2),
        retry_exponential_backoff=2.0,
        max_active_tis_per_dag=AT_ONCE,
        do_xcom_push=False,
    )

    @task.external_python(python=SCORING_PYTHON, expect_airflow=False, retries=2)
    def read_summaries(tasks: list[dict[str, str]]) -> dict[str, object]:
        """Return the numbers of rows, scored rows and failures over all files."""
        import json
        from collections import Counter

        from text_image_similarity.formats import open_bytes

        rows, scored = 0, 0
        failures: Counter[str] = Counter()
        for found in tasks:
            with open_bytes(found["OUT"] + ".summary.json") as file:
                summary = json.load(file)
            rows, scored = rows + summary["rows"], scored + summary["scored"]
            failures.update(summary["failures"])
        return {"files": len(tasks), "rows": rows, "scored": scored, "failures": dict(failures)}

    @task
    def check(found: dict[str, Any]) -> dict[str, Any]:
        """Fail the run if too many rows have no score."""
        most = get_current_context()["params"]["max_failure_share"]
        share = 1 - found["scored"] / found["rows"] if found["rows"] else 0.0
        if share > most:
            raise AirflowFailException(f"{share:.1%} of {found['rows']:,} rows failed, more than {most:.1%}: {found}")
        return found

    tasks = list_files(places())
    scored = score.expand(env=tasks)
    summaries = read_summaries(tasks)
    scored >> summaries
    check(summaries)


score_pairs_dag = score_pairs()

if __name__ == "__main__":
    score_pairs_dag.test()
