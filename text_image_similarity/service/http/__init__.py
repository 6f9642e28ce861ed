"""The service's HTTP: routes, what requests and answers look like, and what every request passes on its way."""
