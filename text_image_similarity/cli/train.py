"""`train`: make a dual encoder from photos with captions."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from tqdm import tqdm

from ..training.config import Loss, TextTowerName, TrainConfig, TrainPrecision
from .options import add_log_options, draws_bars
from .terminal import Heartbeat, lay_out, logger

if TYPE_CHECKING:
    from ..training.loop import TrainProgress, TrainResult

_DEFAULT = TrainConfig()


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Train a dual encoder on photos with captions; without options, the documented baseline."
    command = commands.add_parser("train", help=text, description=text)
    command.add_argument(
        "source", metavar="SOURCE", help="hub id such as jxie/flickr8k, Parquet file, folder with train.parquet, or CSV"
    )
    command.add_argument("out", metavar="OUT", type=Path, help="folder for the model; --model OUT uses it afterwards")
    command.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint")
    add_log_options(command)
    _add_model_options(command)
    _add_course_options(command)
    command.set_defaults(run=run, interrupted="go on with the same command and --resume")


def _add_model_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("model").add_argument
    default = _DEFAULT
    option(
        "--image-tower",
        default=default.image_tower,
        help="a classifier of torchvision, mobilenet_v2, efficientnet_lite0 or timm/NAME (default: %(default)s)",
    )
    option(
        "--image-weights",
        default=default.image_weights,
        help="imagenet (downloaded), none, or a safetensors file in torchvision's naming (default: %(default)s)",
    )
    option("--text-tower", default=default.text_tower, choices=get_args(TextTowerName), help="default: %(default)s")
    option("--init", help="go on from a trained folder, or from mini, with its towers and vocabulary")
    option("--embed-dim", type=int, default=default.embed_dim, help="width of the shared space (default: %(default)s)")
    option(
        "--head-width", type=int, default=default.head_width, help="hidden width of the projections (default: linear)"
    )
    option("--text-width", type=int, default=default.text_width, help="width of the text tower (default: %(default)s)")
    option("--text-layers", type=int, default=default.text_layers, help="its layers (default: %(default)s)")
    option("--vocab-size", type=int, default=default.vocab_size, help="pieces to learn (default: %(default)s)")
    option(
        "--context-length", type=int, default=default.context_length, help="tokens of a caption (default: %(default)s)"
    )
    option("--image-size", type=int, default=default.image_size, help="side in pixels (default: %(default)s)")
    option("--dropout", type=float, default=default.dropout, help="default: %(default)s")
    option("--temperature", type=float, default=default.temperature, help="where it starts (default: %(default)s)")


def _add_course_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("training").add_argument
    default = _DEFAULT
    option("--loss", default=default.loss, choices=get_args(Loss), help="default: %(default)s")
    option("--epochs", type=int, default=default.epochs, help="passes over the photos (default: %(default)s)")
    option("--batch-size", type=int, default=default.batch_size, help="pairs compared at once (default: %(default)s)")
    option("--grad-accum", type=int, default=default.grad_accum, help="parts a batch is encoded in (default: 1)")
    option("--lr", type=float, default=default.lr, help="peak learning rate (default: %(default)s)")
    option("--image-lr", type=float, default=default.image_lr, help="the image tower's; 0 freezes it (default: 2e-4)")
    option("--weight-decay", type=float, default=default.weight_decay, help="default: %(default)s")
    option("--warmup", type=float, default=default.warmup, help="share of steps that warm up (default: %(default)s)")
    option("--clip-norm", type=float, default=default.clip_norm, help="largest gradient norm (default: %(default)s)")
    option("--ema", type=float, default=default.ema, help="decay of the averaged weights (default: %(default)s)")
    option("--patience", type=int, default=default.patience, help="epochs without gain before stopping (default: 5)")
    option("--no-augment", dest="augment", action="store_false", help="take every picture as it is")
    option(
        "--splits",
        default=default.splits,
        choices=("auto", "own", "random"),
        help="the set's own splits, or 60/20/20 by photo (default: own ones where there are any)",
    )
    option("--url-col", dest="col_url", default=default.col_url, help="column of references (default: %(default)s)")
    option("--caption-col", dest="col_text", default=default.col_text, help="column of captions (default: %(default)s)")
    option("--device", default=default.device, help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    option("--precision", default=default.precision, choices=get_args(TrainPrecision), help="default: %(default)s")
    option("--seed", type=int, default=default.seed, help="default: %(default)s")
    option("--workers", type=int, default=default.workers, help="threads that load pictures (default: %(default)s)")
    option(
        "--checkpoint-steps",
        type=int,
        default=default.checkpoint_steps,
        help="steps between checkpoints, besides one at each epoch's end (default: %(default)s)",
    )
    option("--tracking", metavar="URI", default=default.tracking, help="MLflow store, or none (default: %(default)s)")
    option("--experiment", default=default.experiment, help="MLflow experiment (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    config = TrainConfig(**{f.name: getattr(options, f.name) for f in fields(TrainConfig)})
    from ..training.loop import train  # here, so that `--help` and a wrong option answer before torch is loaded

    with closing(_EpochBars(options)) as bars:
        result = train(options.source, options.out, config, resume=options.resume, progress=bars.show)
    if not options.quiet:
        sys.stdout.write(_closing_table(result) + "\n")
    return 0


class _EpochBars:
    """A bar for each epoch, or a heartbeat in the log where there is no terminal, and a line when an epoch is over."""

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
