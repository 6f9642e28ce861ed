"""Schemas of requests and responses, from which the OpenAPI document is generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StrictInt, Tag
from pydantic_core import PydanticCustomError

from ...config import ScoreKind
from ...errors import ErrorCode, RowError

ModelName = Annotated[str, Field(description="Name of a served model (see /v1/models); by default, the first one.")]
Caption = Annotated[str | None, Field(description="If null, only this pair fails.", examples=["a dog on grass"])]
_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"  # one red pixel
Id = Annotated[
    Annotated[str, Field(max_length=1000)] | StrictInt | None, Field(description="Returned with the result.")
]


_JSON_KINDS = {bool: "true or false", list: "a list", dict: "an object"}
MOST_EVALUATIONS = 10_000  # the earlier service had no limit


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UrlPair(_Strict):
    """A caption and an image that the service fetches."""

    image_url: Annotated[
        str | None, Field(description="An http(s) or data: URL.", examples=["https://example.com/dog.jpg"])
    ]
    caption: Caption
    id: Id = None


class Base64Pair(_Strict):
    """A caption and an image that comes with the request."""

    image_base64: Annotated[
        str | None, Field(description="The image's file in standard base64, or as a data: URL.", examples=[_DOT])
    ]
    caption: Caption
    id: Id = None


def _kind_of_pair(pair: Any) -> str:
    has = "image_base64" in pair if isinstance(pair, dict) else isinstance(pair, Base64Pair)
    return "base64" if has else "url"


def _without_null_image(pair: Any) -> Any:
    """Return a pair without the null that a client writes for the kind of image that it does not send."""
    images = [name for name in ("image_url", "image_base64") if isinstance(pair, dict) and name in pair]
    null = [name for name in images if pair[name] is None]
    return {k: v for k, v in pair.items() if k not in null} if len(null) == 1 < len(images) else pair


AnyPair = Annotated[
    Annotated[UrlPair, Tag("url")] | Annotated[Base64Pair, Tag("base64")],
    Discriminator(_kind_of_pair),
    BeforeValidator(_without_null_image),
]


class SimilarityRequest(_Strict):
    """Pairs to score."""

    pairs: Annotated[list[AnyPair], Field(min_length=1)]
    model: ModelName | None = None
    score: Annotated[ScoreKind, Field(description="Score kind; see `Config.score`.")] = "cosine"


class Failure(BaseModel):
    """The reason why a pair has no score, or a query has no results."""

    code: Annotated[ErrorCode, Field(description="Error code, stable across releases.")]
    detail: Annotated[str, Field(description="What happened.")]


ByModel = Annotated[
    dict[str, float] | None,
    Field(description="With the model `ensemble`, the score of each model; null if the pair failed."),
]


class PairResult(BaseModel):
    """The score of a pair, or the reason why it has none."""

    id: Id = None
    similarity: float | None
    by_model: ByModel = None
    error: Failure | None


class SimilarityAnswer(BaseModel):
    """One result for each pair, in order."""

    model: str
    score: ScoreKind
    results: list[PairResult]


class UploadAnswer(BaseModel):
    """The score of an uploaded image and its caption, or the reason why there is none."""

    model: str
    score: ScoreKind
    similarity: float | None
    by_model: ByModel = None
    error: Failure | None


def _check_texts(value: Any) -> Any:
    """Refuse, with clear messages, inputs other than text that OpenAI's clients may send."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise PydanticCustomError("texts", "the list is empty")
    if all(isinstance(item, (int, list)) and not isinstance(item, bool) for item in items):
        said = "token ids are meaningful only to their own tokenizer; send text (LangChain: check_embedding_ctx_length=False)"
        raise PydanticCustomError("texts", said)
    for index, item in enumerate(items):
        if not isinstance(item, str):
            kind = "null" if item is None else _JSON_KINDS.get(type(item), "a number")
            raise PydanticCustomError("texts", "item {index} is {kind}, not text", {"index": index, "kind": kind})
    return value


class EmbeddingsRequest(BaseModel):
    """Captions or images to embed, in the shape of OpenAI's embeddings API."""

    input: Annotated[
        str | Annotated[list[str], Field(min_length=1)],
        Field(description="Captions, or images as http(s) or data: URLs or as files in standard base64."),
        BeforeValidator(_check_texts),
    ]
    model: ModelName | None = None
    modality: Literal["text", "image"] = "text"
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="With base64, embeddings are little-endian float32 values.")
    ] = "float"
    dimensions: Annotated[
        StrictInt | None, Field(description="If given, it must be the model's own number of dimensions.")
    ] = None


class Embedding(BaseModel):
    """The embedding of an input, a unit vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Numbers of tokens, which are always 0, because nothing is billed."""

    prompt_tokens: Literal[0] = 0
    total_tokens: Literal[0] = 0


class EmbeddingsAnswer(BaseModel):
    """One embedding for each input, in order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage = Usage()


class ServedModelFacts(BaseModel):
    """A model that requests may name."""

    id: str
    object: Literal["model"] = "model"
    owned_by: str = "text-image-similarity"
    loaded: bool
    default: bool


class ModelsAnswer(BaseModel):
    """The models that requests may name."""

    object: Literal["list"] = "list"
    data: list[ServedModelFacts]


class InfoAnswer(BaseModel):
    """Description of the service."""

    version: str
    models: Annotated[dict[str, dict[str, Any]], Field(description="The loaded models.")]
    limits: dict[str, float]


class Status(BaseModel):
    """The response of a healthy service."""

    status: Literal["ok"] = "ok"


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(description="Error code, stable across releases.")]
    request_id: str
    errors: Annotated[
        list[dict[str, Any]] | None,
        Field(description="The fields (as JSON pointers) or items (by index) that are wrong, each with its error."),
    ] = None


class LegacyEvaluation(BaseModel):
    """A pair, in the earlier service's format."""

    image_input: Annotated[str | None, Field(description="An http(s) or data: URL, or a file in standard base64.")]
    text_prompt: str | None
    model_config_name: ModelName | None = None

    model_config = ConfigDict(protected_namespaces=())


class LegacyEvaluationResult(BaseModel):
    """A pair's result, in the earlier service's format; `clip_score` is 100 * max(cos, 0)."""

    image_input: str | None
    text_prompt: str | None
    clip_score: float | None
    processing_time_ms: float
    model_used: str
    error: str | None

    model_config = ConfigDict(protected_namespaces=())


class LegacyEvaluationBatch(BaseModel):
    """Pairs, in the earlier service's format."""

    evaluations: Annotated[list[LegacyEvaluation], Field(min_length=1, max_length=MOST_EVALUATIONS, fail_fast=True)]
    batch_size: Annotated[Any, Field(description="A number; it has no effect.")] = None
    show_progress: Annotated[Any, Field(description="True or false; it has no effect.")] = None


class LegacyEvaluationBatchResult(BaseModel):
    """Results, in the earlier service's format."""

    results: list[LegacyEvaluationResult]
    total_processed: int
    total_successful: int
    total_failed: int
    total_processing_time_ms: float


class Health(BaseModel):
    """Health, in the earlier service's format."""

    status: Literal["healthy", "unhealthy"]
    version: str
    models: Annotated[list[str], Field(description="The loaded models.")]
    error: str | None


def failure_of(error: RowError) -> dict[str, str]:
    """Return a row's error as a member of a response."""
    return {"code": error.code.value, "detail": error.detail}
