"""A loaded model: images are fetched and decoded on threads, and batches are encoded as soon as the model is free.

    Job -> distinct images -> fetch (threads) -> decode + tokenize (threads) -> Batcher -> encode -> score

The steps and their results are those of the pipeline. An item that is finished early, because it failed or its
embeddings were cached, is not queued for a batch, and an item whose client has left is not encoded.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial

import numpy as np

from ...embeddings import EmbeddingMemory, Vector
from ...encoders import Encoder, SeveralEncoders
from ...errors import DeviceLostError, ErrorCode, ModelError, RowError
from ...pipeline import Outcome, Stages, open_cache, vectors_of
from ...records import ScoreResult, caption_of
from ..jobs import ImageInput, Item, Job, Span
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .batcher import Batcher
from .workers import ImageWorkers

logger = logging.getLogger("text_image_similarity")

_MOST_CHARACTERS = 10_000  # of a caption
_DOWNLOADS = 16  # concurrent downloads of one request, so that other requests get their share
_FILE_ENTRIES = 1_000_000  # entries in the file of an embedding cache: 2 GB for CLIP ViT-B/32


class ServedModel:
    """A loaded model that processes jobs.

    Args:
        name: Name of the model in requests.
        settings: Settings of the service.
        encoder: Encoder of the model.
        workers: Threads that fetch and decode, shared by the models of a service.
        metrics: Metrics to record to.

    Raises:
        ConfigError: The embedding cache cannot be used, or not with this encoder.
        ModelError: The model does not work.
    """

    def __init__(
        self, name: str, settings: Settings, encoder: Encoder, workers: ImageWorkers, metrics: Metrics
    ) -> None:
        config = settings.config_of(name)
        self.name = name
        self.facts = asdict(encoder.info) | {"embed_dim": encoder.embed_dim}
        self.weight_bytes = int(getattr(encoder, "weight_bytes", 0))  # an attribute of this package's encoders only
        self.problem: ModelError | None = None  # why the model has stopped working
        _self_test(name, encoder)
        self.succeeded = time.monotonic()  # time of the last success
        self._workers, self._metrics = workers, metrics
        self._known = EmbeddingMemory(
            settings.cache_entries,
            open_cache(config, encoder, max_entries=_FILE_ENTRIES, watch=partial(metrics.count_shared_cache, name)),
        )
        # Does not refer to `self`, so that a closed model does not stay in memory until a garbage collection.
        self._stages = Stages(config, encoder, partial(_find_image, self._known, metrics, name))
        self._members = len(encoder.members) if isinstance(encoder, SeveralEncoders) else 1
        self._rate = 0.0  # recent items per second
        self.encoder = encoder
        self.queue = Batcher(f"encode-{name}", self._encode, config.batch_size, settings.max_wait_s, self._self_test)
        metrics.watch(name, lambda: self.depth, settings.max_queue)

    @property
    def depth(self) -> int:
        """Number of items that wait for the model, including those being decoded."""
        return self.queue.depth

    def backlog_s(self, client: str | None) -> float:
        """Return an estimate of the seconds that a client's waiting items will take."""
        depths = self.queue.depths()
        ahead = len(depths) * depths.get(client, 0)
        return min(ahead, self.depth) / self._rate if self._rate else 1.0

    def submit(self, job: Job) -> None:
        """Accept a job, whose items are finished on other threads."""
        self.queue.enter(job)
        loads: dict[ImageInput | None, list[Item]] = {}
        for item in job.items:
            if (problem := _check_caption(item.caption)) is None:
                loads.setdefault(item.image, []).append(item)
            else:
                item.image_outcome = item.text_outcome = problem
                self._answer([item])
        downloads: deque[tuple[str, list[Item]]] = deque()
        for image, items in loads.items():
            if isinstance(image, str) and image[:5].lower() != "data:":
                downloads.append((image, items))
            else:
                self.queue.announce(len(items), job.client)
                read = partial(self._workers.read, image or b"")  # not called if there is only a caption
                self._workers.decode(job.client, partial(self._decode, items, read))
        for _ in range(min(_DOWNLOADS, len(downloads))):
            self._fetch_next(downloads)

    def close(self) -> None:
        """Stop the model after the current batch. Unfinished jobs stay unfinished."""
        self.queue.close()
        self._stages.close()
        self._known.close()

    def _fetch_next(self, downloads: deque[tuple[str, list[Item]]]) -> None:
        """Start the next download of a request, if there is one."""
        with suppress(IndexError):
            reference, items = downloads.popleft()
            self._workers.fetch(items[0].job.client, reference, partial(self._fetch, reference, items, downloads))

    def _fetch(self, reference: str, items: list[Item], downloads: deque[tuple[str, list[Item]]]) -> None:
        """Download the image of some items; runs on a fetching thread."""
        client = items[0].job.client
        if items[0].job.gone:
            self._drop(items)
            self._fetch_next(downloads)
            return
        with self._stage("fetch", items):
            content = self._workers.read(reference, client)
        self._fetch_next(downloads)
        self.queue.announce(len(items), client)
        if isinstance(content, RowError):
            self._decode(items, lambda: content)  # on this thread, because there is nothing to decode
        else:
            self._workers.decode_fetched(client, partial(self._decode, items, lambda: content))

    def _decode(self, items: list[Item], read: Callable[[], bytes | RowError]) -> None:
        """Prepare items that share an image, or have none, for the encoder.

        This runs on a decoding thread, or on the fetching thread of an image that could not be fetched.
        """
        ready: list[Item] = []
        try:
            if items[0].job.gone:
                self._drop(items)
            else:
                with self._stage("decode", items):
                    self._read_image(items, read)
                    self._read_captions(items)
                self._answer(item for item in items if item.is_done)
                ready = [item for item in items if not item.is_done]
        except BaseException as exc:  # a panic of a native library is not an Exception
            self._fail_unexpectedly(items, exc)
        now = time.time()
        for item in ready:
            item.ready = now
        self.queue.announce(len(ready) - len(items), items[0].job.client)
        self.queue.put(ready)

    def _read_image(self, items: list[Item], read: Callable[[], bytes | RowError]) -> None:
        if items[0].image is None:
            return

        def content() -> bytes:
            found = read()
            if isinstance(found, RowError):
                raise found
            return found

        loaded = self._stages.load(content)
        for item in items:
            if isinstance(loaded, RowError):
                item.image_outcome = loaded
            elif loaded.vector is not None:
                item.image_outcome = loaded.vector
            else:
                item.loaded = loaded

    def _read_captions(self, items: Sequence[Item]) -> None:
        wanted = (item.caption for item in items if not isinstance(item.image_outcome, RowError))
        keys = self._stages.caption_keys(dict.fromkeys(caption for caption in wanted if caption is not None))
        known = self._known.get_many(keys.values())
        for item in items:
            if item.caption is not None and (key := keys.get(item.caption)) is not None:
                item.text_outcome = known.get(key)
                self._metrics.count_lookup(self.name, "text", found=item.text_outcome is not None)
                if item.text_outcome is None:
                    item.tokens = self._stages.tokens([item.caption])

    def _encode(self, batch: list[Item]) -> None:
        """Encode a batch and finish its items; runs on the batcher's thread."""
        items = [item for item in batch if not item.job.gone]
        self._drop(item for item in batch if item.job.gone)
        try:
            if self.problem is not None:
                raise self.problem
            if items:
                self._encode_items(items)
        except ModelError as exc:
            self._mark_lost(items, exc)
        except BaseException as exc:  # as in `_decode`
            self._fail_unexpectedly(items, exc)

    def _encode_items(self, items: list[Item]) -> None:
        self._metrics.observe_batch(self.name, len(items))
        began = time.time()
        for item in items:
            item.spans.append(Span("queue", item.ready, began))
            self._metrics.observe_stage(self.name, "queue", began - item.ready)
        with self._stage("encode", items):
            self._encode_images([item for item in items if item.image is not None and item.image_outcome is None])
            self._encode_captions([item for item in items if item.caption is not None and item.text_outcome is None])
        rate = len(items) / max(time.time() - began, 1e-3)
        self._rate = 0.8 * self._rate + 0.2 * rate if self._rate else rate
        self._answer(items)

    def _encode_images(self, items: Sequence[Item]) -> None:
        distinct = {item.loaded.key: item.loaded.pixels for item in items if item.loaded is not None}
        found = dict(zip(distinct, self._stages.encode_images(list(distinct.values())), strict=True))
        self._keep({key: outcome for key, outcome in found.items() if key is not None})
        for item in items:
            item.image_outcome = found[item.loaded.key] if item.loaded is not None else None

    def _encode_captions(self, items: Sequence[Item]) -> None:
        distinct = {str(item.caption): item.tokens for item in items}
        texts = sorted(distinct, key=len)  # sorted, so that captions of similar length are together
        tokens = [row for text in texts for row in distinct[text] or ()]
        outcomes = self._stages.encode_captions(texts, tokens if len(tokens) == len(texts) else None)
        found = dict(zip(texts, outcomes, strict=True))
        self._keep({key: found[text] for text, key in self._stages.caption_keys(found).items()})
        for item in items:
            item.text_outcome = found[str(item.caption)]

    def _keep(self, found: Mapping[bytes, Outcome]) -> None:
        vectors = {key: outcome for key, outcome in found.items() if not isinstance(outcome, RowError)}
        if vectors:
            self.succeeded = time.monotonic()
            self._known.put(vectors)

    def _answer(self, items: Iterable[Item]) -> None:
        """Finish items whose results are complete."""
        for item in items:
            if item.job.kind is None:
                item.job.finish(item)
                continue
            image = item.image_outcome
            assert image is not None, "a pair is answered when it is finished"
            pair = vectors_of(image, image if item.text_outcome is None else item.text_outcome)
            (score,) = self._stages.score([pair], item.job.kind)
            if not item.job.timed_out:
                cosine = None if isinstance(pair, RowError) else float(pair[0] @ pair[1]) / self._members
                self._metrics.count_pair(self.name, score, cosine)
            item.job.finish(item, score)

    def _drop(self, items: Iterable[Item]) -> None:
        for item in items:
            self._metrics.count_dropped(self.name, int(not item.job.timed_out))
            item.job.finish(item)

    def _mark_lost(self, items: Iterable[Item], problem: ModelError) -> None:
        """Record that the model has stopped working, and fail the jobs of the given items."""
        if self.problem is None:
            self.problem = problem
            logger.error("%s has stopped working: %s", self.name, problem)
        for item in items:
            item.job.fail(problem)
            item.job.finish(item)

    def _self_test(self) -> None:
        """Test the model without caches, on the batcher's thread while it is idle, and record the outcome."""
        if self.problem is not None:
            return
        try:
            _self_test(self.name, self.encoder)
            self.succeeded = time.monotonic()
        except DeviceLostError as exc:
            self._mark_lost([], exc)
        except BaseException:  # the failure may be temporary; if it is not, the service becomes unready by itself
            logger.exception("the self-test of %s failed", self.name)

    def _fail_unexpectedly(self, items: Iterable[Item], exc: BaseException) -> None:
        """Fail items after an unexpected error, which must not end the thread."""
        logger.error("this is a bug in text_image_similarity; please report it", exc_info=exc)
        error = RowError(ErrorCode.ENCODER_ERROR, f"{type(exc).__name__}: {exc}")
        for item in items:
            if not item.finished:
                item.image_outcome = item.text_outcome = error
            item.job.finish(item, None if item.job.kind is None else ScoreResult.failed(error))

    @contextmanager
    def _stage(self, name: str, items: Sequence[Item]) -> Iterator[None]:
        """Record the time that items spend in a stage together."""
        began = time.time()
        try:
            yield
        finally:
            span = Span(name, began, time.time())
            self._metrics.observe_stage(self.name, name, span.ended - began)
            for item in items:
                item.spans.append(span)


def _find_image(known: EmbeddingMemory, metrics: Metrics, model: str, key: bytes) -> Vector | None:
    vector = known.get(key)
    metrics.count_lookup(model, "image", found=vector is not None)
    return vector


def _check_caption(caption: str | None) -> RowError | None:
    """Return why a caption cannot be encoded, or None."""
    if caption is None:
        return None
    if len(caption) > _MOST_CHARACTERS:  # checked first: other checks take time for each character
        reason = f"the caption has {len(caption):,} characters, but the service accepts at most {_MOST_CHARACTERS:,}"
        return RowError(ErrorCode.TOO_MANY_BYTES, reason)
    found = caption_of(caption)
    return found if isinstance(found, RowError) else None


def _self_test(name: str, encoder: Encoder) -> None:
    """Raise a `ModelError` unless a sample image and a sample caption can be encoded."""
    try:
        vectors = [*encoder.encode_image([np.zeros((8, 8, 3), np.uint8)]), *encoder.encode_text(["an image"])]
    except ModelError:
        raise
    except Exception as exc:
        raise ModelError(f"{name} cannot encode anything: {type(exc).__name__}: {exc}") from exc
    if not np.isfinite(vectors).all():
        raise ModelError(f"{name} returns embeddings that are not finite")
