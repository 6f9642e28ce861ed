"""Spark: score a DataFrame, score within SQL, run a table's parts on a cluster.

Rows are scored in Spark's Python workers, as Arrow batches; the driver sees none of them. Neither RDDs nor the JVM are
touched, so that both work with Spark Connect. What runs in the workers is in `worker`, the command line's engine in
`engine`.
"""

from __future__ import annotations

from .dataframe import score_dataframe, similarity_udf
from .engine import SparkEngine

__all__ = [
    "SparkEngine",
    "score_dataframe",
    "similarity_udf",
]
