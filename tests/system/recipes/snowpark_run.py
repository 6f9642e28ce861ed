"""Runs the Snowpark recipe in Snowpark's local testing mode: FOLDER of the recipe, the WHEEL, a folder of PICTURES, SITES.

SITES is where the library's dependencies are installed; Snowpark's own environment comes first. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def main(folder: str, wheel: str, pictures: str, sites: str) -> None:
    sys.path.append(sites)
    sys.path.insert(0, folder)
    # The local mode forgets what a function imports, and torch cannot be imported twice.
    for name in ("httpx", "PIL.Image", "pyarrow.parquet", "scipy.special", "torch", "transformers"):
        import_module(name)
    import score_udf
    from snowflake.snowpark import Session

    assert find_spec("text_image_similarity") is None, "so it comes from the wheel"
    session = Session.builder.config("local_testing", True).create()
    session.file.put(wheel, "@code", auto_compress=False)
    session.file.put(f"{pictures}/*.png", "@photos", auto_compress=False)
    score_udf.register(session, "@code", wheel=Path(wheel).name, permanent=False)
    url = (Path(pictures) / "red.txt").read_text()
    rows: list[list[Any]] = [
        [1, url, "a red square"],
        [2, "/etc/hostname", "a file of the sandbox"],
        [3, None, "no picture"],
        [4, url, None],
        [5, url, "a green square"],
    ]
    answer = {**of_tables(session, rows), "staged": of_files(session), **of_batch(rows)}
    sys.stdout.write(json.dumps(answer, default=int) + "\n")


def of_tables(session: Any, rows: list[list[Any]]) -> dict[str, Any]:
    """Fill a table in several goes."""
    from score_udf import score_table
    from snowflake.snowpark.types import IntegerType, StringType, StructField, StructType

    types = (("id", IntegerType), ("url", StringType), ("caption", StringType), ("found", StringType))
    schema = StructType([StructField(name, kind()) for name, kind in types])

    def add(new: list[list[Any]]) -> None:
        there = [[*row, f"found {row[0]}"] for row in new]
        session.create_dataframe(there, schema=schema).write.save_as_table("pairs", mode="append")

    add(rows)
    answer: dict[str, Any] = {"first": score_table(session, "pairs", "scored", key="id", rows=2)}
    answer["again"] = score_table(session, "pairs", "scored", key="id")
    answer["table"] = [row.as_dict() for row in session.table("scored").sort("id").collect()]
    add([[6, rows[0][1], "a late row"]])
    answer["late"] = score_table(session, "pairs", "scored", key="id")
    answer["cut_off"] = when_the_target_cannot_be_read(session)
    for name in ("similarity", "Error", "score_pair_result"):
        session.create_dataframe([["1", "a", "b", "c"]], schema=["id", "url", "caption", name]).write.save_as_table(
            "other"
        )
        answer[name] = refusal(session, "other")
        session.table("other").drop_table()
    add([[6, rows[0][1], "twice"]])
    answer["twice"] = refusal(session, "pairs")
    return answer


def when_the_target_cannot_be_read(session: Any) -> list[Any]:
    """Score while Snowflake refuses once to read the target; return what came of it, and the rows of the target."""
    from score_udf import score_table
    from snowflake.snowpark.exceptions import SnowparkSQLException

    table, refusals = session.table, [SnowparkSQLException("the warehouse is suspended")]

    def refuse_once(name: str) -> Any:
        if name == "scored" and refusals:
            raise refusals.pop()
        return table(name)

    session.table = refuse_once
    try:
        outcome: Any = score_table(session, "pairs", "scored", key="id")
    except SnowparkSQLException as error:
        outcome = str(error)
    finally:
        session.table = table
    return [outcome, session.table("scored").count()]


def refusal(session: Any, source: str) -> str | None:
    """Return why a table is not scored."""
    from score_udf import score_table

    try:
        score_table(session, source, f"{source}_scored", key="id")
    except ValueError as error:
        return str(error)
    return None


def of_files(session: Any) -> list[Any]:
    """Score pictures on a stage."""
    from snowflake.snowpark.functions import call_udf, col

    names = [["@photos/red.png", "a red square"], ["@photos/none.png", "x"], ["@photos/broken.png", "x"], [None, "x"]]
    staged = session.create_dataframe(names, schema=["file", "caption"])
    return [row[0] for row in staged.select(call_udf("score_staged_file", col("file"), col("caption"))).collect()]


def of_batch(rows: list[list[Any]]) -> dict[str, Any]:
    """Call the function as Snowflake does: with a batch of rows."""
    import pandas as pd
    from score_udf import score_pair

    _, urls, captions = zip(*rows, strict=True)
    found = score_pair(pd.Series(urls, index=[3, 1, 4, 1, 5]), pd.Series(captions))
    return {"batch": list(found), "index": found.index.tolist()}


if __name__ == "__main__":
    main(*sys.argv[1:])
