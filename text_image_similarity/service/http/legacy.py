"""The routes of the earlier service, for its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

from ...records import ScoreResult
from ...system import package_version
from ..jobs import Pair, timeout_error
from ..pool import ModelPool
from ..problems import ProblemError
from ..settings import ENSEMBLE
from .access import key_of
from .auditing import noted_refusal
from .bodies import PROBLEMS, WorkRoute, ask
from .json_bodies import JsonAnswer
from .routes import metrics, parse_image, unready
from .schema import (
    MOST_EVALUATIONS,
    Health,
    LegacyEvaluation,
    LegacyEvaluationBatch,
    LegacyEvaluationBatchResult,
    LegacyEvaluationResult,
)

_TIMEOUTS = 10  # time limit of a whole batch, in request timeouts
_PREFIX = "/evaluator/v1/evaluation"


class BatchRoute(WorkRoute):
    """A route whose requests may have more pairs than `max_pairs`, because the earlier service had no limit."""

    most_items = MOST_EVALUATIONS


work = APIRouter(prefix=_PREFIX, route_class=WorkRoute, responses=PROBLEMS, tags=["earlier service"])
batches = APIRouter(prefix=_PREFIX, route_class=BatchRoute, responses=PROBLEMS, tags=["earlier service"])
about = APIRouter(tags=["earlier service"])
_UNHEALTHY: dict[int | str, dict[str, Any]] = {503: {"model": Health}}


@work.post("/single", response_model=LegacyEvaluationResult)
async def single(asked: LegacyEvaluation, request: Request) -> Response:
    """Score one pair."""
    found = await _evaluate_chunk(request, asked.model_config_name, {0: asked})
    return JsonAnswer(found[0], count=request.state.count_answer, levels=1)


@batches.post("/batch", response_model=LegacyEvaluationBatchResult)
async def batch(asked: LegacyEvaluationBatch, request: Request) -> Response:
    """Score pairs, grouped by the model that they name."""
    began = time.perf_counter()
    results = await _evaluate(request, asked.evaluations)
    failed = sum(result["error"] is not None for result in results)
    return JsonAnswer(
        {
            "results": results,
            "total_processed": len(results),
            "total_successful": len(results) - failed,
            "total_failed": failed,
            "total_processing_time_ms": _milliseconds(began),
        },
        count=request.state.count_answer,
    )


@about.get("/evaluator/health", response_model=Health, responses=_UNHEALTHY)
@about.get("/system/health", response_model=Health, responses=_UNHEALTHY)
async def health(request: Request) -> Response:
    """Report whether the service works."""
    problem = unready(request)
    body = {
        "status": "healthy" if problem is None else "unhealthy",
        "version": package_version(),
        "models": [name for name, facts in request.app.state.pool.models().items() if facts is not None],
        "error": None if problem is None else problem.detail,
    }
    return JsonAnswer(body, status_code=200 if problem is None else 503)


about.get("/evaluator/metrics", response_class=PlainTextResponse)(metrics)


@about.get("/evaluator/docs", include_in_schema=False)
async def docs() -> Response:
    """Redirect to the documentation."""
    return RedirectResponse("/docs")


async def _evaluate(request: Request, asked: Sequence[LegacyEvaluation]) -> list[dict[str, Any]]:
    """Score pairs, model by model, and return results in order.

    Until the first pairs have been scored, a problem is the response to the whole request; later, and always for an
    unknown model, it becomes the error of the affected pairs.
    """
    found: dict[int, dict[str, Any]] = {}
    in_progress = False
    numbers: dict[str | None, list[int]] = {}
    for number, evaluation in enumerate(asked):
        numbers.setdefault(evaluation.model_config_name, []).append(number)
    settings = request.app.state.settings
    most_s = _TIMEOUTS * settings.request_timeout_s
    end = time.monotonic() + most_s
    late = ScoreResult.failed(timeout_error(most_s)).error
    for name, there in numbers.items():
        for start in range(0, len(there), settings.max_pairs):
            some = {number: asked[number] for number in there[start : start + settings.max_pairs]}
            if time.monotonic() > end:
                found |= {number: _failed(evaluation, late) for number, evaluation in some.items()}
                continue
            try:
                found |= await _evaluate_chunk(request, name, some, in_progress=in_progress)
                in_progress = True
            except ProblemError as problem:
                if problem.code != "unknown_model" and not in_progress:
                    raise
                request.state.call.notes += noted_refusal(problem, key_of(request))
                error = f"{problem.code}: {problem.detail}"
                found |= {number: _failed(evaluation, error) for number, evaluation in some.items()}
    return [found[number] for number in range(len(asked))]


async def _evaluate_chunk(
    request: Request, name: str | None, asked: Mapping[int, LegacyEvaluation], *, in_progress: bool = False
) -> dict[int, dict[str, Any]]:
    """Score at most `max_pairs` pairs; a batch in progress waits for room in the queue, within the time limit."""
    began = time.perf_counter()
    pool: ModelPool = request.app.state.pool
    if name == ENSEMBLE and request.app.state.settings.ensemble == "probability":
        raise ProblemError("unknown_model", f"{name!r} returns probabilities, which cannot be returned as clip_score")
    pairs = [
        Pair("" if one.image_input is None else parse_image(one.image_input), one.text_prompt or "")
        for one in asked.values()
    ]
    while True:
        try:
            answer = await ask(request, pool.score(name, pairs, "clip_score"), [pair.image for pair in pairs])
            break
        except ProblemError as problem:
            waited = time.perf_counter() - began
            if problem.code != "queue_full" or not in_progress or waited > request.app.state.settings.request_timeout_s:
                raise
            await asyncio.sleep(0.05)
    took = _milliseconds(began)
    found = {}
    for (number, evaluation), result in zip(asked.items(), answer.results, strict=True):
        found[number] = {
            "image_input": evaluation.image_input,
            "text_prompt": evaluation.text_prompt,
            "clip_score": None if result.error else result.similarity,
            "processing_time_ms": took,
            "model_used": answer.model,
            "error": result.error,
        }
    return found


def _failed(evaluation: LegacyEvaluation, error: str | None) -> dict[str, Any]:
    """Return the result of a pair that was not scored."""
    return {
        "image_input": evaluation.image_input,
        "text_prompt": evaluation.text_prompt,
        "clip_score": None,
        "processing_time_ms": 0.0,
        "model_used": evaluation.model_config_name or "",
        "error": error,
    }


def _milliseconds(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)
