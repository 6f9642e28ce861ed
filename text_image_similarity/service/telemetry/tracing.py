"""OpenTelemetry traces of requests: a span for the request, with a child span for each stage of each pair.

Spans are exported from recorded times when a request is finished, so that threads need not know about traces. A trace
continues the caller's W3C trace context, which is not passed on to the hosts from which images are fetched.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any

from ...system import call_within

if TYPE_CHECKING:
    from ..jobs import Call

logger = logging.getLogger("text_image_similarity")

_LAST_S = 2.0  # time limit for the last spans
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


class Tracing:
    """An exporter of traces, which does nothing without an endpoint.

    Args:
        endpoint: OTLP/HTTP collector, such as http://collector:4318; None disables traces.
    """

    def __init__(self, endpoint: str | None) -> None:
        self._tracer: Any = None
        self._provider: Any = None
        if endpoint is not None:
            self._provider = _make_provider(endpoint)
            self._tracer = self._provider.get_tracer("text_image_similarity")

    def record(self, call: Call, headers: dict[bytes, bytes], name: str, status: int) -> str | None:
        """Export the spans of a finished request.

        Returns:
            The trace id, for the log: 32 hexadecimal digits; None if neither the caller nor this service has one.
        """
        if self._tracer is None:
            caller = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
            return caller[1].decode() if caller else None
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {key: headers[key.encode()].decode("latin-1") for key in _CONTEXT if key.encode() in headers}
        span = self._tracer.start_span(
            name,
            TraceContextTextMapPropagator().extract(carrier),
            SpanKind.SERVER,
            {
                "http.response.status_code": status,
                "http.request.method": name.partition(" ")[0],
                "http.route": name.partition(" ")[2],
                "tis.request_id": call.request_id,
                "tis.pairs": call.pairs,
                "tis.failed": call.failed,
            },
            start_time=_to_nanoseconds(call.began),
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        below = set_span_in_context(span)
        for answer in call.answers:
            for index, spans in enumerate(answer.spans):
                for stage in spans:
                    facts = {"tis.model": answer.model, "tis.pair": index}
                    began = _to_nanoseconds(stage.began)
                    child = self._tracer.start_span(stage.stage, below, attributes=facts, start_time=began)
                    child.end(_to_nanoseconds(stage.ended))
        span.end()
        return f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send the last spans within a time limit, so that a dead collector does not keep the service from exiting."""
        if self._provider is not None:
            try:
                call_within(_LAST_S, self._provider.shutdown, name="last-spans")
            except Exception as exc:
                logger.warning("the last spans were not sent: %s", exc)


_CONTEXT = ("traceparent", "tracestate")


def _make_provider(endpoint: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME takes precedence over our name; OTEL_RESOURCE_ATTRIBUTES and OTEL_TRACES_SAMPLER apply too.
    name = os.environ.get("OTEL_SERVICE_NAME", "text-image-similarity")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return provider


def _to_nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
