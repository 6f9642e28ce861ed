"""`train`: train a dual encoder on photos with captions."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from ..config import Config, Limits
from ..training.config import MODEL_SETTINGS, TrainConfig
from .options import add_base_dir, add_dialect, add_fetch_options, add_log_options, dialect_of, draws_bars
from .parser import add_field
from .terminal import Heartbeat, lay_out, logger

if TYPE_CHECKING:
    from ..training.loop import TrainProgress, TrainResult

# Options whose name or help differs from the setting's.
_OTHERWISE: dict[str, dict[str, Any]] = {
    "augment": {
        "option": "--no-augment",
        "action": "store_false",
        "default": True,
        "help": "do not crop or mirror images at random, or vary their brightness, contrast and saturation",
    },
    "col_url": {"option": "--url-col", "metavar": "COLUMN"},
    "col_text": {"option": "--caption-col", "metavar": "COLUMN"},
    "init": {"metavar": "MODEL"},
    "tracking": {"metavar": "URI"},
    "experiment": {"metavar": "NAME"},
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Train a dual encoder on photos with captions; the default options train the documented baseline."
    command = commands.add_parser("train", help=text, description=text)
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a table that `score` reads, a folder with train.parquet, metadata.jsonl or captions.txt, or a hub id such as jxie/flickr8k",
    )
    command.add_argument(
        "out", metavar="OUT", type=Path, help="folder for the trained model, which `--model OUT` then loads"
    )
    command.add_argument(
        "--resume", action="store_true", help="resume from OUT's checkpoint; start from scratch if there is none yet"
    )
    add_log_options(command)
    _add_settings(command)
    add_base_dir(command)
    add_dialect(command)
    add_fetch_options(command)
    command.set_defaults(run=run, interrupted="run the same command with --resume to continue")


def _add_settings(command: argparse.ArgumentParser) -> None:
    model, training = command.add_argument_group("model"), command.add_argument_group("training")
    for field in fields(TrainConfig):
        if field.name != "loading":
            group = model if field.name in MODEL_SETTINGS else training
            add_field(group, TrainConfig, field.name, **_OTHERWISE.get(field.name, {}))


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    given = {field.name: getattr(options, field.name) for field in fields(TrainConfig) if field.name != "loading"}
    loading = Config(
        timeout_s=options.timeout_s,
        retries=options.retries,
        proxy=options.proxy,
        base_dir=options.base_dir,
        files_under=options.files_under,
        ca_file=options.ca_file,
        headers_file=options.headers_file,
        limits=Limits(**dict(options.limits)),
        dialect=dialect_of(options),
    )
    config = TrainConfig(**given, loading=loading)
    # Imported here so that `--help` and wrong options are handled without loading NumPy and torch.
    from ..dataset import own_splits
    from ..encoders.placement import check_placement
    from ..system import require

    own_splits(options.source, loading.dialect)  # raises at once if the data set does not exist

    require("training", "torch", extra="train")

    check_placement(Config(device=config.device, precision="fp16" if config.precision == "fp16" else "auto"))
    from ..training.loop import train

    with closing(_EpochBars(options)) as bars:
        result = train(options.source, options.out, config, resume=options.resume, progress=bars.show)
    if not options.quiet:
        sys.stdout.write(_closing_table(result) + "\n")
    return 0


class _EpochBars:
    """A progress bar for each epoch, or a heartbeat for the whole run, and a log line at the end of each epoch."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._quiet = options.quiet
        self._heartbeat = None if draws_bars(options) else Heartbeat("steps", options.heartbeat)
        self._bar: tqdm[NoReturn] | None = None

    def show(self, at: TrainProgress) -> None:
        if self._quiet:
            return
        if self._heartbeat is not None:
            self._heartbeat.beat((at.epoch - 1) * at.steps + at.step, None, at.epochs * at.steps)
        else:
            self._draw(at)
        if at.metrics is not None:
            self.close()
            recalls = (f"{name.replace('_', ' ')} {value:.1%}" for name, value in at.metrics.items() if "@10" in name)
            line = f"epoch {at.epoch}: loss {at.loss:.3f}, {', '.join(recalls)}"
            logger.info(line, extra={"epoch": at.epoch, "loss": at.loss, "metrics": dict(at.metrics)})

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, at: TrainProgress) -> None:
        if self._bar is None:
            self._bar = tqdm(total=at.steps, unit=" steps", desc=f"epoch {at.epoch}/{at.epochs}", dynamic_ncols=True)
        self._bar.set_postfix_str(f"loss {at.loss:.3f}", refresh=False)
        self._bar.update(at.step - self._bar.n)


def _closing_table(result: TrainResult) -> str:
    best = result.history[result.best_epoch - 1]
    ended = " (stopped early)" if result.stopped_early else ""
    shown = [("model", str(result.folder)), ("best epoch", f"{result.best_epoch} of {len(result.history)}{ended}")]
    for part, figures in (("validation", best), ("test", result.test)):
        shown += [
            (f"{part} {name.replace('_', ' ')}", f"{value:.1%}") for name, value in figures.items() if "recall@" in name
        ]
    return lay_out(shown)
