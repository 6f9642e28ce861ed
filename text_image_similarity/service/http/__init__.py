"""The service's HTTP side: the application, its routes and the server; all of it needs the extra `serve`."""

from ...system import require

require("the service", "fastapi", "fastapi_swagger", "prometheus_client", "python_multipart", "uvicorn", extra="serve")
