"""The service's web pages: scoring, search, and the API's documentation."""
