"""Score images and captions in AWS Lambda: the handler of a container image.

The handler takes four kinds of events:

- `{"pairs": [{"url": ..., "caption": ...}, ...]}`, invoked directly: returns `{"results": [...]}`, in order.
- The same as the body of a request through a function URL or an HTTP API: the response is 200 with the results, or 400.
- Messages of an SQS queue, one pair each: each result is written to `RESULTS/<message id>.json`. A message that failed for
  a temporary reason, such as a timeout, goes back to the queue, so the event source needs ReportBatchItemFailures.
- Tables that were uploaded to a bucket of BUCKETS, announced by S3 or through an SQS queue: each is scored to
  `TABLES/<bucket>/<key>`. Before the time is up, the run stops between two parts and raises an error; the next attempt
  resumes if WORK_DIR is still there.

Environment: SCORE_CONFIG (settings as JSON), RESULTS and TABLES (places such as s3://scores/results), BUCKETS (names of
buckets, separated by spaces), WORK_DIR (/tmp/parts).
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

from fsspec.core import url_to_fs

from text_image_similarity import (
    Config,
    Limits,
    LocalEngine,
    ScoreResult,
    TableOptions,
    load_encoder,
    score_csv,
    score_pairs,
)
from text_image_similarity.bounded_json import parse_json
from text_image_similarity.records import Record

logger = logging.getLogger("text_image_similarity")
logger.setLevel(logging.INFO)

MOST_PAIRS = 1000  # in one request
RESERVE_MS = 20_000  # time to join a table's parts and upload the result
# Without this list, anyone who may write to the queue could make the function copy any table that its role may read.
BUCKETS = frozenset(os.environ.get("BUCKETS", "").split())

GIVEN = json.loads(os.environ.get("SCORE_CONFIG", "{}"))
CONFIG = Config(
    **{
        "model_cache": "/tmp/cache",  # everything else is read-only
        "isolate_decoder": True,  # an image that crashes the decoder fails only its own row
        "chunk_size": 200,  # rows between two checks of the time
        **GIVEN,
        # A message must not read the container's files.
        "limits": Limits(**{"allow_local_files": False, **GIVEN.get("limits", {})}),
    }
)
ENCODER = load_encoder(CONFIG)  # once for all events of this container


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle one event.

    Raises:
        StoppedError: The time ran out before the table was complete.
        TextImageSimilarityError: A table cannot be scored.
        ValueError: The event is not of a supported kind.
    """
    if "pairs" in event:
        return {"results": score(event["pairs"])}
    if "requestContext" in event:
        return answer(event)
    records = event.get("Records")
    if not isinstance(records, list):
        raise ValueError(f"this function does not support an event with {', '.join(event)}")
    if records and records[0].get("eventSource") == "aws:s3":
        return {"tables": [score_table(found, context) for found in records]}
    return score_messages(records, context)


def score(pairs: Any) -> list[dict[str, Any]]:
    """Return a result for each pair: `similarity`, or null and the `error`."""
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise ValueError('"pairs" must be a list of objects with "url" and "caption"')
    if len(pairs) > MOST_PAIRS:
        raise ValueError(
            f"a request may have at most {MOST_PAIRS:,} pairs, not {len(pairs):,}; put a table into S3 instead"
        )
    return [as_object(result) for result in results_of(pairs)]


def results_of(pairs: list[dict[str, Any]]) -> list[ScoreResult]:
    """Score pairs with any content; a pair without a URL or a caption fails without affecting the others."""
    records = (Record.of(pair.get("url"), pair.get("caption")) for pair in pairs)
    return list(score_pairs(records, CONFIG, encoder=ENCODER))


def as_object(result: ScoreResult) -> dict[str, Any]:
    """Return a result as plain values for JSON."""
    return {"similarity": None if math.isnan(result.similarity) else result.similarity, "error": result.error}


def answer(event: dict[str, Any]) -> dict[str, Any]:
    """Handle a request over HTTP."""
    try:
        body = event.get("body") or ""
        asked = json.loads(base64.b64decode(body) if event.get("isBase64Encoded") else body)
        status = 200
        said: dict[str, object] = {"results": score(asked["pairs"])}
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        status, said = 400, {"message": f'send {{"pairs": [{{"url": ..., "caption": ...}}]}}: {exc}'}
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(said)}


def score_messages(messages: list[dict[str, Any]], context: Any) -> dict[str, Any]:
    """Score the messages of a queue, and return those that should be retried."""
    again: list[str] = []
    pairs: dict[str, dict[str, Any]] = {}
    for message in messages:
        body = parsed(message["body"])
        if "Records" in body or body.get("Event") == "s3:TestEvent":  # from a bucket, through the queue
            try:
                for found in body.get("Records", []):
                    score_table(found, context)
            except Exception:  # retried, and finally sent to the dead-letter queue; the others are not affected
                logger.exception("the table of message %s was not scored; it will be retried", message["messageId"])
                again.append(message["messageId"])
        else:
            pairs[message["messageId"]] = body
    results = dict(zip(pairs, results_of(list(pairs.values())), strict=True))
    for name, result in results.items():
        if result.code is not None and result.code.retryable:
            logger.warning("message %s will be retried: %s", name, result.error)
            again.append(name)
    keep({name: {**pairs[name], **as_object(result)} for name, result in results.items() if name not in again})
    return {"batchItemFailures": [{"itemIdentifier": name} for name in again]}


def parsed(body: str) -> dict[str, Any]:
    """Return a message's object; anything else is kept and fails later as a pair without a URL."""
    try:
        found = parse_json(body)  # nested no deeper than `keep` can write
    except ValueError:
        found = body
    return found if isinstance(found, dict) else {"body": body}


def keep(results: dict[str, dict[str, Any]]) -> None:
    """Write results under RESULTS, one object per message; a repeated message overwrites its own result."""
    if results:
        system, folder = url_to_fs(os.environ["RESULTS"])
        system.pipe({f"{folder}/{name}.json": json.dumps(result).encode() for name, result in results.items()})


def score_table(found: dict[str, Any], context: Any) -> dict[str, Any]:
    """Score a table that was put into a bucket."""
    bucket, key = found["s3"]["bucket"]["name"], unquote_plus(found["s3"]["object"]["key"])
    if bucket not in BUCKETS:
        raise ValueError(f"the bucket {bucket!r} is not in BUCKETS; add it there if its tables should be scored")
    if set(key) & set("*?[]{}"):
        raise ValueError(f"the key {key!r} could mean several objects; give it a name without any of *?[]{{}}")
    target = f"{os.environ['TABLES'].rstrip('/')}/{bucket}/{key}"
    options = TableOptions(work_dir=os.environ.get("WORK_DIR", "/tmp/parts"))
    summary = score_csv(
        f"s3://{bucket}/{key}",
        target,
        CONFIG,
        options=options,
        engine=LocalEngine(encoder=ENCODER),
        stop=time_is_short(context),
    )
    return {"output": target, "rows": summary.rows, "scored": summary.scored, "failures": summary.failures}


def time_is_short(context: Any) -> Callable[[], bool]:
    """Return a function that tells when the time left is too short for another part, judging by the longest so far."""
    last, longest, parts = context.get_remaining_time_in_millis(), 0, -1

    def asked() -> bool:
        nonlocal last, longest, parts
        left = context.get_remaining_time_in_millis()
        parts += 1
        if parts:  # the first call comes before any part is done
            longest = max(longest, last - left)
        last = left
        return bool(left < RESERVE_MS + 1.5 * longest)

    return asked
