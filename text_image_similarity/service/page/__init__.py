"""The service's web page."""
