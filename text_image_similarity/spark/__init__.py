"""Score on Spark: a DataFrame, SQL queries, or the parts of a table on a cluster.

Rows are scored in Spark's Python workers, as Arrow batches, without passing through the driver. Neither RDDs nor the
JVM are used, so this also works with Spark Connect. The code that runs in the workers is in `worker`, and the command
line's engine in `engine`.
"""

from __future__ import annotations

from .dataframe import score_dataframe, similarity_udf
from .engine import SparkEngine

__all__ = [
    "SparkEngine",
    "score_dataframe",
    "similarity_udf",
]
