"""Convert records to the pairs of a request.

http(s) references are sent to the service unchanged. All other references, and images in the table itself, are read
here, because a service never reads local paths; the code is the same as in a local run, and so are the errors. The
result of a record that cannot be sent is also determined here.
"""

from __future__ import annotations

from base64 import b64encode

import httpx

from ..config import Config
from ..decode.formats import sniff
from ..errors import ErrorCode, RowError
from ..fetch import Fetcher, scheme_of, strip_invisible
from ..records import Record, ScoreResult, is_whole, parts_of

PairPayload = dict[str, str]  # `caption`, and `image_url` or `image_base64`


class Pairs:
    """Converts records to pairs; safe to call from many threads.

    Args:
        config: Settings, of which `base_dir`, `files_under` and, for references that are read here, `limits` are used.
    """

    def __init__(self, config: Config) -> None:
        self._most_bytes = config.limits.max_bytes
        self._fetcher = Fetcher(config, transport=httpx.MockTransport(_never))

    def pair(self, record: Record) -> PairPayload | ScoreResult:
        """Return the pair to send for a record, or its result if that is known without the service."""
        pair = parts_of(record)
        if isinstance(pair, RowError):
            return ScoreResult.failed(pair)
        image, caption = pair[0], pair[1].encode("utf-8", "replace").decode("utf-8")
        try:
            if isinstance(image, str):
                url = strip_invisible(image)
                if scheme_of(url) in ("http", "https") and is_whole(url):
                    return {"image_url": url, "caption": caption}
                image = self._fetcher.fetch(url)
            return {"image_base64": b64encode(self._checked(image)).decode("ascii"), "caption": caption}
        except RowError as error:
            return ScoreResult.failed(error)

    def _checked(self, content: bytes) -> bytes:
        if not content:
            raise RowError(ErrorCode.EMPTY_BODY, "0 bytes")
        if len(content) > self._most_bytes:
            raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {self._most_bytes:,} bytes")
        sniff(content)  # a table may name any file, and only images are sent
        return content

    @staticmethod
    def settled(record: Record, result: ScoreResult) -> ScoreResult:
        """Return a record's result, which is a failure if its caption cannot be sent unchanged."""
        if result.error is not None or is_whole(str(record.text)):
            return result
        reason = "the caption contains a lone surrogate (half of a UTF-16 pair), which cannot be sent"
        return ScoreResult.failed(RowError(ErrorCode.ENCODER_ERROR, reason))

    def close(self) -> None:
        """Close the fetcher."""
        self._fetcher.close()


def _never(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"{request.url} must be fetched by the service, not here")
