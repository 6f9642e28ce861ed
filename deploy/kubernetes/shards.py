"""Score many tables with an Indexed Job of Kubernetes; each index processes its share of the files.

    python shards.py score 's3://lake/pairs/*.parquet' s3://lake/scored --shards 16
    python shards.py split s3://lake/pairs.csv s3://lake/pairs-by-host --shards 16

`score` processes the files numbered INDEX, INDEX + SHARDS, INDEX + 2 SHARDS and so on, and skips those whose output is
complete, so an index may be run as often as needed. `split` first splits one table by the hosts of its URLs, so that only
one pod at a time sends requests to a host, and the limit of requests per host holds for the whole Job.

Exit codes, for the Job's podFailurePolicy: 0 means that everything is done, 1 that a retry may help, 2 that it cannot
(a wrong option, a table that cannot be scored), and 143 that SIGTERM ended the run. A bad file does not prevent the
other files of its index from being scored.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from text_image_similarity import (
    Config,
    Encoder,
    Limits,
    LocalEngine,
    StoppedError,
    TableError,
    TableOptions,
    TextImageSimilarityError,
    UsageError,
    load_encoder,
    score_csv,
)
from text_image_similarity.bounded_json import JsonLimitError, parse_json
from text_image_similarity.cli.stopping import Stopping
from text_image_similarity.files import whole_file
from text_image_similarity.formats import is_url, open_bytes, open_table, state_of, upload
from text_image_similarity.formats.storage import canonical, expand, local_path
from text_image_similarity.tables import read_summary

logger = logging.getLogger("shards")

BATCH_ROWS = 10_000
MOST_BYTES = 256 * 1024 * 1024  # size of a listing
WAITING_BYTES = 256 * 1024 * 1024  # split rows that may be in memory before a row group is written to each shard


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two commands and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except StoppedError as error:
        logger.warning("%s", error)
        return 143
    except TextImageSimilarityError as error:
        logger.error("%s", error)
        return 2 if isinstance(error, UsageError) else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score", help="score the files of one index")
    score.add_argument("source", metavar="IN", help="a file, a folder or a pattern, as a path or a URL")
    score.add_argument(
        "--index",
        type=int,
        default=os.environ.get("JOB_COMPLETION_INDEX", "0"),
        help="number of the share of files to score, from 0 (default: JOB_COMPLETION_INDEX, otherwise 0)",
    )
    score.add_argument(
        "--job", default=os.environ.get("JOB_UID", ""), help="id of the Job, whose pods share one listing"
    )
    score.add_argument("--config", default="{}", help='settings as JSON: {"model": "mini", "limits": {"per_host": 4}}')
    score.add_argument("--caption-col", default="caption", help="column of captions (default: caption)")
    score.add_argument(
        "--work-dir", help="folder for finished parts; if its volume outlives the pod, the next pod resumes"
    )
    split = commands.add_parser("split", help="split one table into shards by the hosts of its URLs")
    split.add_argument("source", metavar="IN", help="a table")
    for command, run in ((score, score_share), (split, split_by_host)):
        command.add_argument("target", metavar="OUT", help="a folder, as a path or a URL")
        command.add_argument(
            "--shards", type=int, required=True, help="number of shards; for score, the Job's completions"
        )
        command.add_argument("--url-col", default="url", help="column of image references (default: url)")
        command.set_defaults(run=run)
    return whole


def score_share(options: argparse.Namespace) -> int:
    """Score the files of one index, each to the same name under OUT."""
    if not 0 <= options.index < options.shards:
        raise UsageError(f"--index {options.index} is not one of the {options.shards} shards")
    config = config_from(options.config)
    if not is_url(options.target):
        Path(options.target).mkdir(parents=True, exist_ok=True)
    files = sorted(set(expand(options.source)))  # the pattern **/**/*.csv finds a file twice
    if options.job:
        files = agreed(files, f"{options.target.rstrip('/')}/_files-{options.job}.json")
    targets = targets_of(files, options.source, options.target)
    mine = files[options.index :: options.shards]
    logger.info("index %d of %d has %d of %d files", options.index, options.shards, len(mine), len(files))
    if not mine:
        return 0
    code = 0
    with Stopping() as stopping:
        encoder = load_encoder(config)
        for file in mine:
            try:
                score_file(file, targets[file], config, encoder, options, stopping.asked)
            except UsageError as error:
                logger.error("%s: %s", file, error)
                code = code or 2
            except TableError as error:  # the store may respond next time
                logger.error("%s: %s", file, error)
                code = 1
    return code


def score_file(
    file: str, target: str, config: Config, encoder: Encoder, options: argparse.Namespace, stop: Callable[[], bool]
) -> None:
    """Score one file unless its output is complete."""
    if finished(file, target, config, encoder, options):
        logger.info("%s is complete", target)
        return
    if not is_url(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
    how = TableOptions(work_dir=options.work_dir)
    summary = score_csv(
        file,
        target,
        config,
        options.url_col,
        options.caption_col,
        options=how,
        engine=LocalEngine(encoder=encoder),
        stop=stop,
    )
    logger.info("%s: %d rows, %d scored, failed: %s", target, summary.rows, summary.scored, summary.failures)


def finished(file: str, target: str, config: Config, encoder: Encoder, options: argparse.Namespace) -> bool:
    """Tell whether the output exists, for exactly this input, model and kind of score."""
    try:
        summary = read_summary(target)
        state_of(target)
        settings = summary["job"]["settings"]
        content, weights = summary["job"]["input_content"], summary["job"]["weights"]
    except (UsageError, ValueError, KeyError, TypeError):
        return False
    wanted = {
        **encoder.info.as_dict(),
        "score": config.score,
        "col_url": options.url_col,
        "col_text": options.caption_col,
    }
    del wanted["device"]  # nodes differ
    if any(settings.get(name) != value for name, value in wanted.items()):
        return False
    if weights != encoder.info.fingerprint:
        return False
    table = open_table(file)
    table.scan()
    return bool(content == table.digest)


def agreed(files: list[str], note: str) -> list[str]:
    """Return the listing that the first pod of the Job saved.

    If each pod had its own listing, a file added or removed while the Job runs would assign other files to a different
    pod, or to none.
    """
    data = json.dumps(files).encode()
    try:
        if is_url(note):
            from fsspec.core import url_to_fs

            system, path = url_to_fs(note)
            system.pipe_file(path, data, mode="create")
        else:
            with tempfile.NamedTemporaryFile(dir=Path(note).parent, prefix="_files-") as whole:
                whole.write(data)
                whole.flush()
                os.link(whole.name, note)
    except FileExistsError:
        return listed_in(note)
    except OSError as exc:
        raise TableError(f"{note} cannot be written: {exc}") from exc
    return files


def listed_in(note: str) -> list[str]:
    """Return the listing in a file.

    Raises:
        TableError: The file is not a list of paths.
    """
    with open_bytes(note) as file:
        content = file.read(MOST_BYTES + 1)
    try:
        if len(content) > MOST_BYTES:
            raise JsonLimitError(f"it has more than {MOST_BYTES >> 20} MiB")
        files = parse_json(content.decode("utf-8"))
        if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
            raise TypeError("it is not a list of paths")
    except (ValueError, TypeError) as exc:
        raise TableError(f"{note} is not the listing of a Job: {exc}; delete it, and start the Job again") from exc
    return files


def targets_of(files: list[str], source: str, folder: str) -> dict[str, str]:
    """Return the path of each file's scores: the part of its name that the pattern leaves open, in a folder.

    Raises:
        UsageError: Two files have the same target, so the scores of one would be lost; or a target would be outside the
            folder.
    """
    source = canonical(source) if is_url(source) else str(local_path(source))  # spelt as in the results of `expand`
    fixed = re.split(r"[*?\[]", source)[0]
    root = fixed[: fixed.rfind("/") + 1]
    file_of: dict[str, str] = {}
    for file in files:
        name = file.removeprefix(root) if fixed != source and file.startswith(root) else file.rpartition("/")[2]
        if ".." in name.split("/"):
            raise UsageError(f"{file} leads out of {root}; write the pattern without ..")
        target = f"{folder.rstrip('/')}/{name}"
        if target in file_of:
            raise UsageError(
                f"{file_of[target]} and {file} would both be scored to {target}; score each to a separate folder"
            )
        file_of[target] = file
    return {file: target for target, file in file_of.items()}


def config_from(text: str) -> Config:
    """Return settings given as JSON."""
    try:
        given = json.loads(text)
        return Config(**{**given, "limits": Limits(**given.get("limits", {}))})
    except (AttributeError, TypeError, json.JSONDecodeError) as exc:
        raise UsageError(f"--config {text}: {exc}") from exc


def split_by_host(options: argparse.Namespace) -> int:
    """Write a table's rows as Parquet shards in the table's order, with all rows of a host in the same shard."""
    if options.shards < 1:
        raise UsageError("--shards must be at least 1")
    table = open_table(options.source)
    table.scan()
    if options.url_col not in table.columns:
        raise UsageError(f"{options.source} has no column {options.url_col!r}")
    names = [f"shard-{i:05}-of-{options.shards:05}.parquet" for i in range(options.shards)]
    check_only(options.target, names)
    rows_of = [0] * options.shards
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:
        local = Path(scratch if is_url(options.target) else options.target)
        local.mkdir(parents=True, exist_ok=True)
        paths = [local / name for name in names]
        if not is_url(options.target):
            paths = [opened.enter_context(whole_file(path)) for path in paths]
        writers = [opened.enter_context(pq.ParquetWriter(path, table.schema)) for path in paths]
        waiting: dict[int, list[pa.RecordBatch]] = defaultdict(list)
        size = 0
        for rows in table.read(0, BATCH_ROWS):
            batch = rows.arrow()
            places: dict[int, list[int]] = defaultdict(list)
            for place, url in enumerate(rows.column(options.url_col)):
                places[shard_of(url, options.shards)].append(place)
            for shard, chosen in places.items():
                waiting[shard].append(batch.take(pa.array(chosen)))
                rows_of[shard] += len(chosen)
            size += batch.nbytes
            if size >= WAITING_BYTES:
                flush(waiting, writers)
                size = 0
        flush(waiting, writers)
        opened.close()
        if is_url(options.target):
            for path, name in zip(paths, names, strict=True):
                upload(path, f"{options.target.rstrip('/')}/{name}")
    sizes = sum(rows_of), options.shards, min(rows_of), max(rows_of)
    logger.info("wrote %d rows in %d shards of %d to %d rows", *sizes)
    return 0


def flush(waiting: dict[int, list[pa.RecordBatch]], writers: list[pq.ParquetWriter]) -> None:
    """Write the waiting rows, as one row group per shard."""
    for shard, batches in waiting.items():
        table = pa.Table.from_batches(batches).unify_dictionaries()
        writers[shard].write_table(table, row_group_size=table.num_rows)
    waiting.clear()


def shard_of(url: object, shards: int) -> int:
    """Return the shard of a URL's host; references without a host, such as paths, are spread over all shards."""
    text = str(url)
    try:
        host = urlsplit(text).hostname or text
    except ValueError:
        host = text
    return zlib.crc32(host.encode("utf-8", "surrogatepass")) % shards


def check_only(target: str, names: list[str]) -> None:
    """Reject a folder with other tables: shards of an earlier split would be scored, too."""
    try:
        found = expand(target)
    except UsageError:
        return
    if others := sorted({Path(file).name for file in found} - set(names)):
        raise UsageError(f"{target} already contains {others[0]}; name another folder, or remove the file")


if __name__ == "__main__":
    sys.exit(main())
