"""The routes of the service's main API."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import PlainTextResponse

from ...config import ScoreKind
from ...errors import RowError
from ...fetch import is_base64_image, strip_invisible
from ...records import ScoreResult
from ...system import package_version
from ..jobs import ImageInput, Pair
from ..pool import ModelPool
from ..problems import ProblemError
from ..settings import ENSEMBLE
from .bodies import PROBLEMS, FormRoute, WorkRoute, ask, decode_base64, is_fetchable
from .json_bodies import JsonAnswer
from .schema import (
    Base64Pair,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    InfoAnswer,
    ModelsAnswer,
    SimilarityAnswer,
    SimilarityRequest,
    Status,
    UploadAnswer,
    UrlPair,
    failure_of,
)

_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")

work = APIRouter(route_class=WorkRoute, responses=PROBLEMS)
uploads = APIRouter(route_class=FormRoute, responses=PROBLEMS)
about = APIRouter(tags=["about"])
probes = APIRouter(tags=["probes"])


@work.post("/v1/similarity", response_model=SimilarityAnswer, tags=["scores"])
async def similarity(asked: SimilarityRequest, request: Request) -> Response:
    """Score pairs; each gets its similarity or its own error, without affecting other pairs."""
    pool: ModelPool = request.app.state.pool
    pairs = [Pair(_image_of(pair), pair.caption or "") for pair in asked.pairs]
    answer = await ask(request, pool.score(asked.model, pairs, asked.score), [pair.image for pair in pairs])
    members = _members(request, answer.model)
    results = (
        {"id": pair.id, **_format_result(result, members)}
        for pair, result in zip(asked.pairs, answer.results, strict=True)
    )
    found = {"model": answer.model, "score": asked.score, "results": results}
    return JsonAnswer(found, count=request.state.count_answer)


@uploads.post("/v1/similarity/upload", response_model=UploadAnswer, tags=["scores"])
async def upload(
    request: Request,
    image: Annotated[UploadFile, File(description="The image's file.")],
    caption: Annotated[str, Form(min_length=1)],
    model: Annotated[str | None, Form()] = None,
    score: Annotated[ScoreKind, Form()] = "cosine",
) -> Response:
    """Score one image, sent as a file of a form, with its caption."""
    pool: ModelPool = request.app.state.pool
    answer = await ask(request, pool.score(model, [Pair(await image.read(), caption)], score))
    return JsonAnswer(
        {"model": answer.model, "score": score, **_format_result(answer.results[0], _members(request, answer.model))}
    )


@work.post("/v1/embeddings", response_model=EmbeddingsAnswer, tags=["embeddings"])
async def embeddings(asked: EmbeddingsRequest, request: Request) -> Response:
    """Embed captions or images, in the shape of OpenAI's embeddings API."""
    pool: ModelPool = request.app.state.pool
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input
    if asked.modality == "image":
        images = [parse_image(text) for text in inputs]
        answer = await ask(request, pool.embed_images(asked.model, images), images)
    else:
        answer = await ask(request, pool.embed_texts(asked.model, inputs))
    vectors, failed = [], []  # (embed_dim,) float32 each
    for index, outcome in enumerate(answer.results):
        if isinstance(outcome, RowError):
            failed.append({"index": index, **failure_of(outcome)})
        else:
            vectors.append(outcome)
    if failed:
        first = f"input {failed[0]['index']}: {failed[0]['code']}: {failed[0]['detail']}"
        raise ProblemError("invalid_request", first, errors=failed)
    if asked.dimensions not in (None, len(vectors[0])):
        raise ProblemError(
            "invalid_request",
            f"/dimensions: the vectors of {answer.model} always have {len(vectors[0])} dimensions; leave the field out",
        )
    data = (
        {
            "object": "embedding",
            "index": index,
            "embedding": (
                b64encode(vector.astype("<f4").tobytes()).decode()
                if asked.encoding_format == "base64"
                else vector.tolist()
            ),
        }
        for index, vector in enumerate(vectors)
    )
    found = {"object": "list", "data": data, "model": answer.model, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    return JsonAnswer(found, count=request.state.count_answer)


@about.get("/v1/models", response_model=ModelsAnswer, responses={401: PROBLEMS[401]})
async def models(request: Request) -> Response:
    """List the models that requests may name, the default first."""
    settings, found = request.app.state.settings, request.app.state.pool.models()
    facts = {name: loaded is not None for name, loaded in found.items()}
    facts |= {name: all(facts[model] for model in weights) for name, weights in settings.splits.items()}
    data = [
        {
            "id": name,
            "object": "model",
            "owned_by": "text-image-similarity",
            "loaded": loaded,
            "default": name == settings.default,
        }
        for name, loaded in facts.items()
    ]
    return JsonAnswer({"object": "list", "data": data})


@about.get("/v1/info", response_model=InfoAnswer, responses={401: PROBLEMS[401]})
async def info(request: Request) -> Response:
    """Describe the service: version, loaded models, limits."""
    settings = request.app.state.settings
    limits = settings.models[settings.default].limits
    return JsonAnswer(
        {
            "version": package_version(),
            "models": {name: facts for name, facts in request.app.state.pool.models().items() if facts is not None},
            "limits": {
                "max_pairs": settings.max_pairs,
                "max_body_bytes": settings.max_body_bytes,
                "max_queue": settings.max_queue,
                "max_inflight": settings.max_inflight,
                "request_timeout_s": settings.request_timeout_s,
                "max_bytes": limits.max_bytes,
                "max_pixels": limits.max_pixels,
                "max_side": limits.max_side,
            },
        }
    )


@probes.get("/livez", response_model=Status, responses={503: PROBLEMS[503]})
async def livez(request: Request) -> Response:
    """Report whether this process should continue to run."""
    if (problem := request.app.state.pool.dead()) is not None:
        raise problem
    return JsonAnswer({"status": "ok"})


@probes.get("/readyz", response_model=Status, responses={503: PROBLEMS[503]})
async def readyz(request: Request) -> Response:
    """Report whether to send requests here: the model works, the queue has room, and no shutdown has begun."""
    if (problem := unready(request)) is not None:
        raise problem
    return JsonAnswer({"status": "ok"})


@probes.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    request.app.state.metrics.ready.set(unready(request) is None)
    return Response(request.app.state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def unready(request: Request) -> ProblemError | None:
    """Return why no requests should be sent here, or None."""
    if request.app.state.draining:
        return ProblemError("draining", "the service is shutting down", retry_after_s=1)
    problem: ProblemError | None = request.app.state.pool.unready()
    return problem


def _image_of(pair: UrlPair | Base64Pair) -> ImageInput:
    """Return a pair's image, or an empty reference if it is null."""
    if isinstance(pair, UrlPair):
        return pair.image_url or ""
    return "" if pair.image_base64 is None else decode_base64(pair.image_base64)


def parse_image(text: str) -> ImageInput:
    """Return the URL or the base64 file in a text; a path is returned as a reference and refused later."""
    text = strip_invisible(text)
    if is_fetchable(text) or not _BASE64.fullmatch(text[:1000]):
        return text
    padded = (
        len(text) > 1000 or len("".join(text.split())) % 4 == 0
    )  # /etc/passwd could be base64, except for its length
    return decode_base64(text) if padded or is_base64_image(text) else text


def _members(request: Request, model: str) -> list[str]:
    """Return the names of the models that scored together; empty if there was only one."""
    settings = request.app.state.settings
    return list(settings.models) if settings.ensemble and model == ENSEMBLE else []


def _format_result(result: ScoreResult, members: Sequence[str]) -> dict[str, Any]:
    if result.error is None:
        each = {"by_model": dict(zip(members, result.by_model, strict=True))} if members else {}
        return {"similarity": result.similarity, **each, "error": None}
    code, _, detail = result.error.partition(": ")
    return {
        "similarity": None,
        **({"by_model": None} if members else {}),
        "error": {"code": code, "detail": detail},
    }
