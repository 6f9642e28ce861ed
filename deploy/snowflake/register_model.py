"""Put an export into Snowflake's model registry, and score tables with it there.

    from register_model import log_model
    version = log_model(session, "exports/clip", "clip", settings={"io_workers": 32})
    version.run(session.table("pairs"), function_name="score")

    select model(clip)!score(url, caption) from pairs;

The version contains the export and this package's code, and needs a few libraries from PyPI, but not torch. References need
an external access integration that names their hosts; a service needs a compute pool with such an integration.
"""

# No `from __future__ import annotations`: Snowflake inspects the types at run time.
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from snowflake.ml.model import custom_model

from text_image_similarity.export.carried import checked_export, open_carried, package_copy, requirements

SETTINGS = "settings.json"
COLUMNS = {"url": "STRING", "caption": "STRING"}, {"similarity": "DOUBLE", "error": "STRING"}  # in and out
SNOWFLAKES = ("numpy", "pandas")  # Snowflake's own library installs the versions that it needs


class PairScores(custom_model.CustomModel):  # type: ignore[misc]  # snowflake-ml-python is not installed with this package
    """Scores images and captions when Snowflake calls it.

    Args:
        context: Holds the export's folder as `export`, and a file with settings as `settings`.
    """

    def __init__(self, context: Any):
        super().__init__(context)
        settings = json.loads(Path(context.path("settings")).read_text(encoding="utf-8"))
        self.model = open_carried(context.path("export"), settings)

    @custom_model.inference_api  # type: ignore[untyped-decorator]
    def score(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return `similarity`, which is NaN for a failed row, and `error`, which is empty for a scored one."""
        found = self.model.predict(rows)
        return pd.DataFrame(
            {"similarity": found["similarity"].astype(float), "error": found["error"].fillna("").astype(str)}
        )


def signature() -> Any:
    """Return the signature of `score`; Snowflake's library would need pandas 2 to infer it."""
    from snowflake.ml.model.model_signature import DataType, FeatureSpec, ModelSignature

    given, answer = ([FeatureSpec(name, DataType[kind]) for name, kind in columns.items()] for columns in COLUMNS)
    return ModelSignature(inputs=given, outputs=answer)


def libraries() -> list[str]:
    """Return the packages that the version needs from PyPI."""
    return [line for line in requirements() if line.partition("==")[0] not in SNOWFLAKES]


def log_model(
    session: Any, folder: str, name: str, *, settings: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """Log an export to the registry of a session's schema.

    Args:
        session: A Snowpark session.
        folder: The export.
        name: The model's name.
        settings: Settings of `Config` except `model`, as plain values for JSON.
        options: For `Registry.log_model`, such as `version_name` or `target_platforms`.

    Returns:
        The model's version.
    """
    from snowflake.ml.registry import Registry

    checked_export(Path(folder))
    with package_copy() as code, tempfile.TemporaryDirectory() as place:
        (path := Path(place) / SETTINGS).write_text(json.dumps(dict(settings or {})), encoding="utf-8")
        context = custom_model.ModelContext(export=folder, settings=str(path))
        return Registry(session=session).log_model(
            PairScores(context),
            model_name=name,
            signatures={"score": signature()},
            pip_requirements=libraries(),
            code_paths=[str(code)],
            **options,
        )
