"""Export a model: graphs, tokens, a manifest, and a comparison with the model's own results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from ..config import Config, require_config
from ..encoders import load_encoder, model_folder, resolve_model
from ..encoders.exported import load_exported, read_manifest
from ..encoders.hub import cached_folder
from ..encoders.kinds import is_export
from ..encoders.two_tower import TwoTowerEncoder
from ..errors import ConfigError, ModelError
from ..files import path_text
from ..system import require
from .folder import card, describe
from .gate import BOUNDS, Bounds, EncodedPairs, Parity, compare
from .measure import CheckPairs, drawn, encoded, pairs_of
from .options import ExportOptions
from .staging import check_free, whole_folder

_EXPORTERS = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """The facts about an export, and how it compares with its source.

    Args:
        out: Folder of the export.
        source: The model that was exported.
        target, precision, recipe: The options that were used; `recipe` is None except for int8.
        digest: Hash of the manifest, which holds the hashes of all other files.
        bytes: Size of the folder, without a calibration.
        parities: Comparisons on generated pairs and, if one was given, on the caller's table.
        source_ms: Milliseconds that the source takes on this machine for an image and for a caption.
        seconds: Time that the export took.
    """

    out: str
    source: str
    target: str
    precision: str
    recipe: str | None
    digest: str
    bytes: int
    parities: tuple[Parity, ...]
    source_ms: tuple[float, float]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the export is within the bounds for its precision."""
        return all(parity.passed for parity in self.parities)


def export_model(
    config: Config,
    out: str | PathLike[str],
    options: ExportOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> ExportSummary:
    """Export a model to a folder that can be used as `Config(model=...)` without torch and transformers.

    Args:
        config: `model`, `revision` and, for the caller's table, the settings for fetching are used.
        out: Folder to write, which appears complete or not at all.
        options: Target, precision and so on; by default ONNX in fp32.
        progress: Function that is called with a description of each step.

    Raises:
        UsageError: `out` exists and is not an export, or it is one and `force` is off.
        ConfigError: The model cannot be exported for that target.
        ModelError: The model cannot be loaded or exported, or its export differs too much from it.
        MissingExtraError: A library is missing.

    Example:
        export_model(Config(model="mini"), "exports/mini", ExportOptions(precision="int8"))
    """
    require_config(config)
    options, tell, began = options or ExportOptions(), progress or (lambda _: None), time.perf_counter()
    place = Path(path_text(out, "out"))
    replaces = _replaces(options)
    check_free(place, replaces=replaces)  # before torch is imported
    require(f"exporting {config.model}", *_EXPORTERS, extra="onnx")
    from ..encoders.graphs import drop_weights
    from .write import write_export  # imported here because it loads the libraries checked above

    with whole_folder(place, replaces=replaces) as made:
        tell(f"loading {config.model}")
        source, home = _load_source(config)
        tell("encoding pairs with the source")
        checks = [drawn(source)]
        if options.check_data is not None:
            checks.append(pairs_of(options.check_data, config, source))
        before = [encoded(source, pairs) for pairs in checks]
        for recipe in options.recipes:
            tell(f"writing {options.precision} graphs" + (f" ({recipe})" if recipe else ""))
            facts = write_export(source, home, made, options, recipe, (checks[0], before[0]))
            if recipe == options.recipes[-1]:
                drop_weights(source)  # so that memory holds either the source or its export
            tell("comparing the export with its source")
            parities = _compared(made, checks, before, BOUNDS[options.precision])
            if passed := all(parity.passed for parity in parities):
                break
        if not passed and not options.allow_drift:
            raise ModelError(_refusal(config, options, parities))
        (made / "README.md").write_text(card(read_manifest(made), parities[-1]), encoding="utf-8")
        manifest = describe(made, facts, parities, passed=passed)
    return ExportSummary(
        out=str(place),
        source=source.model,
        target=options.to,
        precision=options.precision,
        recipe=manifest["recipe"],
        digest=manifest["digest"],
        bytes=sum(file["bytes"] for file in manifest["files"].values()),
        parities=tuple(parities),
        source_ms=(before[0].image_ms, before[0].text_ms),
        seconds=round(time.perf_counter() - began, 1),
    )


def _replaces(options: ExportOptions) -> Callable[[Path], bool]:
    return lambda place: options.force and is_export(place)


def _load_source(config: Config) -> tuple[TwoTowerEncoder, Path | None]:
    """Load the model on torch, and return it with the folder of its files."""
    folder = model_folder(str(config.model))
    if is_export(folder):
        raise ConfigError(
            f"{config.model} is already an export; export its source, {read_manifest(folder)['source']['model']}"
        )
    encoder = load_encoder(replace(config, device="cpu", precision="fp32", backend="torch", preprocess="exact"))
    if not isinstance(encoder, TwoTowerEncoder):
        raise ModelError(f"{config.model} is not a model that can be exported")
    if folder.is_dir():
        return encoder, folder
    named = str(config.model).startswith("open_clip:")  # named by architecture and weights, not by a hub repository
    return encoder, None if named else cached_folder(*resolve_model(config.model, config.revision))


def _compared(made: Path, checks: list[CheckPairs], before: list[EncodedPairs], bounds: Bounds) -> list[Parity]:
    export = load_exported(str(made), made, Config(model=made))
    return [
        compare(pairs.name, source, encoded(export, pairs), bounds)
        for pairs, source in zip(checks, before, strict=True)
    ]


def _refusal(config: Config, options: ExportOptions, parities: list[Parity]) -> str:
    said = "; ".join(f"on {parity.data}: {', '.join(parity.failures)}" for parity in parities if parity.failures)
    other = "another precision" if options.precision != "fp32" else "a newer torch or onnxruntime"
    return (
        f"{config.model} was not exported in {options.precision}, because the export's scores would differ too much "
        f"from the model's: {said}; try {other}, or accept the differences with --allow-drift"
    )
