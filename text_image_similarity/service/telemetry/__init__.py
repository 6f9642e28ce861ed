"""The service's telemetry: Prometheus metrics and OpenTelemetry traces."""
