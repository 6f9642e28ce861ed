"""The command `text-image-similarity` and the batch script: parse, run, exit with the right code."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ..errors import BusyError, StoppedError, TextImageSimilarityError, TooManyFailuresError, UsageError
from ..system import package_version
from . import catalog, embed, evaluate, export, filter, logs, match, match_table, models, report, score, serve, train
from .examples import add_epilogs
from .parser import Parser
from .relay import relayed_stderr
from .streams import lenient_streams, lost_output
from .wording import in_options

_CODES = {UsageError: 2, BusyError: 3, TooManyFailuresError: 4, StoppedError: 143}


class _PrintVersion(argparse.Action):
    """Prints the version, and looks it up only then; argparse's own action would look it up for every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"{parser.prog} {package_version()}\n")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `text-image-similarity` and exit."""
    with lenient_streams():
        parser, _ = make_parser()
        given = sys.argv[1:] if arguments is None else list(arguments)
        _run_and_exit(parser.parse_args(given, argparse.Namespace(arguments=given)))


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the command line, and those of its commands by name, such as `score` or `catalog add`."""
    parser = Parser(prog="text-image-similarity", description="Score how well each image matches its caption.")
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (score, report, filter, evaluate, train, export, models, embed, serve, match, match_table):
        command.add(commands)
    actions = catalog.add(commands)
    add_epilogs(commands.choices | actions)
    return parser, {name: found for name, found in commands.choices.items() if name != "catalog"} | actions


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, from which shtab generates shell completions."""
    return make_parser()[0]


def run_script(in_path: Path, out_path: Path, arguments: Sequence[str] | None = None) -> None:
    """Run the batch script and exit.

    The script is `score` with default paths, and with the model `mini` if no model is named and the default model is
    unavailable.

    Args:
        in_path: The default input.
        out_path: The default output.
        arguments: The command line; None is this process's own.
    """
    parser = Parser(description=f"Score {in_path.name}, or any table of images and captions.")
    parser.add_argument("in_path", metavar="IN", nargs="?", default=str(in_path), help="the table to score")
    parser.add_argument("out_path", metavar="OUT", nargs="?", default=str(out_path), help="the table to write")
    score.add_score_options(parser)
    parser.set_defaults(fall_back=True)
    with lenient_streams():
        _run_and_exit(parser.parse_args(arguments))


def _run_and_exit(options: argparse.Namespace) -> None:
    # Without this, helper processes of Python and of libraries would look for modules in the working folder first.
    os.environ["PYTHONSAFEPATH"] = "1"
    if options.log_format == "json":
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with relayed_stderr() if options.log_format == "json" else nullcontext() as stream:
        logs.set_up(options.log_format, quiet=options.quiet, stream=stream)
        code = _run(options)
    sys.exit(code)


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = options.run(options)
    except TextImageSimilarityError as error:
        logs.tell(options.log_format, "error", in_options(str(error), options.option_names))
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), 1)
    except KeyboardInterrupt:
        logs.tell(options.log_format, "interrupted", getattr(options, "interrupted", "nothing was written"))
        code = 130
    except Exception:  # not raised, because Python would print the message after `lenient_streams` has ended
        if options.log_format == "json":
            logs.logger.exception("this is a bug in text_image_similarity; please report it")
        else:
            traceback.print_exc()
        code = 1
    if (problem := lost_output()) is not None:
        logs.tell(options.log_format, "error", f"the result could not be written to stdout: {problem.strerror}")
        code = code or 1
    return code
