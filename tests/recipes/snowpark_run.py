"""Runs the Snowpark recipe in Snowpark's local testing mode: FOLDER of the recipe, the WHEEL, a folder of PICTURES, SITES.

SITES is where the library's dependencies are installed; Snowpark's own environment comes first. Prints JSON.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

folder, wheel, pictures, sites = sys.argv[1:]
sys.path.append(sites)
sys.path.insert(0, folder)

import httpx  # noqa: E402, F401 - the local mode forgets what a function imports, and torch cannot be imported twice
import pandas as pd  # noqa: E402
import PIL.Image  # noqa: E402, F401
import pyarrow.parquet  # noqa: E402, F401
import scipy.special  # noqa: E402, F401
import score_udf  # noqa: E402
import torch  # noqa: E402, F401
import transformers  # noqa: E402, F401
from snowflake.snowpark import Session  # noqa: E402
from snowflake.snowpark.functions import call_udf, col  # noqa: E402
from snowflake.snowpark.types import IntegerType, StringType, StructField, StructType  # noqa: E402

score_udf.SETTINGS["engine"] = "torch"  # needs no export, which takes half a minute
assert find_spec("text_image_similarity") is None, "so it comes from the wheel"
session = Session.builder.config("local_testing", True).create()
session.file.put(wheel, "@code", auto_compress=False)
session.file.put(f"{pictures}/*.png", "@photos", auto_compress=False)
score_udf.register(session, "@code", permanent=False)

data_url = open(f"{pictures}/red.txt").read()  # noqa: PTH123, SIM115
rows = [
    [1, data_url, "a red square"],
    [2, "/etc/hostname", "a file of the sandbox"],
    [3, None, "no picture"],
    [4, data_url, None],
    [5, data_url, "a green square"],
]
schema = StructType([StructField(n, t()) for n, t in (("id", IntegerType), ("url", StringType), ("caption", StringType))])
pairs = session.create_dataframe(rows, schema=schema)
pairs.write.save_as_table("pairs")
answer = {"first": score_udf.score_table(session, "pairs", "scored", key="id", rows=2)}
answer["again"] = score_udf.score_table(session, "pairs", "scored", key="id")
answer["table"] = [row.as_dict() for row in session.table("scored").sort("id").collect()]
session.create_dataframe([[6, data_url, "a late row"]], schema=schema).write.save_as_table("pairs", mode="append")
answer["late"] = score_udf.score_table(session, "pairs", "scored", key="id")
session.create_dataframe([[6, data_url, "twice"]], schema=schema).write.save_as_table("pairs", mode="append")
try:
    score_udf.score_table(session, "pairs", "scored", key="id")
except ValueError as error:
    answer["twice"] = str(error)

staged = session.create_dataframe(
    [["@photos/red.png", "a red square"], ["@photos/none.png", "x"], ["@photos/broken.png", "x"], [None, "x"]],
    schema=["file", "caption"],
)
found = staged.select(call_udf("score_staged_file", col("file"), col("caption"))).collect()
answer["staged"] = [row[0] for row in found]

# As Snowflake calls it: a batch of rows.
batch = score_udf.score_pair(pd.Series([row[1] for row in rows], index=[3, 1, 4, 1, 5]), pd.Series([row[2] for row in rows]))
answer["batch"], answer["index"] = list(batch), batch.index.tolist()
print(json.dumps(answer, default=int))  # noqa: T201 - for the test that reads it
