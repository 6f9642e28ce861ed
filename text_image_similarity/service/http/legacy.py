"""The routes of the service that came before this one, for its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse

from ...records import ScoreResult
from ...system import package_version
from ..jobs import Ask
from ..problems import ProblemError
from .bodies import PROBLEMS, WorkRoute, ask
from .routes import image_of, metrics, unready
from .schema import Evaluation, EvaluationBatch, EvaluationBatchResult, EvaluationResult, Health

work = APIRouter(prefix="/evaluator/v1/evaluation", route_class=WorkRoute, responses=PROBLEMS, tags=["earlier service"])
about = APIRouter(tags=["earlier service"])
_UNHEALTHY: dict[int | str, dict[str, Any]] = {503: {"model": Health}}


@work.post("/single", response_model=EvaluationResult)
async def single(asked: Evaluation, request: Request) -> Response:
    """Score one pair."""
    found = await _evaluate_some(request, asked.model_config_name, {0: asked})
    return JSONResponse(found[0])


@work.post("/batch", response_model=EvaluationBatchResult)
async def batch(asked: EvaluationBatch, request: Request) -> Response:
    """Score pairs, together for each model that they name."""
    began = time.perf_counter()
    results = await _evaluate(request, asked.evaluations)
    failed = sum(result["error"] is not None for result in results)
    return JSONResponse(
        {
            "results": results,
            "total_processed": len(results),
            "total_successful": len(results) - failed,
            "total_failed": failed,
            "total_processing_time_ms": _milliseconds(began),
        }
    )


@about.get("/evaluator/health", response_model=Health, responses=_UNHEALTHY)
@about.get("/system/health", response_model=Health, responses=_UNHEALTHY)
async def health(request: Request) -> Response:
    """Say whether the service works."""
    problem = unready(request)
    body = {
        "status": "healthy" if problem is None else "unhealthy",
        "version": package_version(),
        "models": [name for name, facts in request.app.state.backend.models().items() if facts is not None],
        "error": None if problem is None else problem.detail,
    }
    return JSONResponse(body, status_code=200 if problem is None else 503)


about.get("/evaluator/metrics", response_class=PlainTextResponse)(metrics)


@about.get("/evaluator/docs", include_in_schema=False)
async def docs() -> Response:
    """Lead to the documentation."""
    return RedirectResponse("/docs")


async def _evaluate(request: Request, asked: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Score pairs, model by model; results are in order."""
    found: dict[int, dict[str, Any]] = {}
    for name in dict.fromkeys(evaluation.model_config_name for evaluation in asked):
        numbers = [number for number, evaluation in enumerate(asked) if evaluation.model_config_name == name]
        most = request.app.state.settings.max_pairs
        for start in range(0, len(numbers), most):
            some = {number: asked[number] for number in numbers[start : start + most]}
            try:
                found |= await _evaluate_some(request, name, some, begun=bool(found))
            except ProblemError as problem:
                if problem.code != "unknown_model":
                    raise
                found |= {number: _unknown(evaluation, problem) for number, evaluation in some.items()}
    return [found[number] for number in range(len(asked))]


async def _evaluate_some(
    request: Request, name: str | None, asked: Mapping[int, Evaluation], *, begun: bool = False
) -> dict[int, dict[str, Any]]:
    """Score as many pairs as a request may have; a batch that has begun waits for room, for as long as a request may take."""
    began = time.perf_counter()
    asks = [Ask(image_of(evaluation.image_input), evaluation.text_prompt) for evaluation in asked.values()]
    while True:
        try:
            answer = await ask(request, name, asks, "clip_score")
            break
        except ProblemError as problem:
            waited = time.perf_counter() - began
            if problem.code != "queue_full" or not begun or waited > request.app.state.settings.request_timeout_s:
                raise
            await asyncio.sleep(0.05)
    took = _milliseconds(began)
    found = {}
    for (number, evaluation), result in zip(asked.items(), answer.results, strict=True):
        assert isinstance(result, ScoreResult)
        found[number] = {
            "image_input": evaluation.image_input,
            "text_prompt": evaluation.text_prompt,
            "clip_score": None if result.error else result.similarity,
            "processing_time_ms": took,
            "model_used": answer.model,
            "error": result.error,
        }
    return found


def _unknown(evaluation: Evaluation, problem: ProblemError) -> dict[str, Any]:
    """Return the result of a pair whose model there is not, beside others that have theirs."""
    return {
        "image_input": evaluation.image_input,
        "text_prompt": evaluation.text_prompt,
        "clip_score": None,
        "processing_time_ms": 0.0,
        "model_used": evaluation.model_config_name,
        "error": f"{problem.code}: {problem.detail}",
    }


def _milliseconds(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 3)
