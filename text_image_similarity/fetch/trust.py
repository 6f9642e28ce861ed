"""Which certificates https connections trust: the system's, and those of the files that the caller or the environment names.

On Linux the system's are those of OpenSSL and of the places where distributions keep them, beside certifi's list, which
containers without any need. macOS and Windows keep theirs in a store that only their own functions read (truststore).
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from ..errors import ConfigError

# Variables that OpenSSL, requests and curl read; each adds a file or a folder of certificates.
VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # BSD
)
# Where the system's store is asked by a context that holds a lock while it shakes hands: each thread needs its own.
LOCKS_HANDSHAKES = sys.platform in ("darwin", "win32")
_UNVERIFIED = frozenset({18, 19, 20, 21})  # OpenSSL's codes of chains that end at nobody who is trusted


def create_ssl_context(
    ca_file: str | os.PathLike[str] | None = None, environment: Mapping[str, str] | None = None
) -> ssl.SSLContext:
    """Return a context that verifies servers.

    Args:
        ca_file: Further certificates to trust, in PEM: a file, or a folder with hashed names.
        environment: Where `VARIABLES` are looked up; None is the process's.

    Raises:
        ConfigError: A file that is named holds no certificates.
    """
    context = _system_context()
    if ca_file is not None:
        _trust(context, str(ca_file), "ca_file")
    places: dict[str, str] = {}  # several variables often name one file
    for name in VARIABLES:
        value = (os.environ if environment is None else environment).get(name, "")
        for place in filter(None, value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]):
            places.setdefault(place, name)
    for place, name in places.items():
        _trust(context, place, name)
    return context


def explain_untrusted(problem: BaseException | None) -> str:
    """Return what to do about a certificate that no trusted authority signed; "" if that is not the cause."""
    if isinstance(problem, ssl.SSLCertVerificationError) and problem.verify_code in _UNVERIFIED:
        return "; where a company's proxy signs connections, name its certificate: ca_file (--ca-file) or SSL_CERT_FILE"
    return ""


def _system_context() -> ssl.SSLContext:
    if LOCKS_HANDSHAKES:
        import truststore

        store: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return store
    context = httpx.create_ssl_context(trust_env=False)
    context.set_default_verify_paths()
    for place in filter(os.path.isfile, _SYSTEM_FILES):
        context.load_verify_locations(cafile=place)
        break
    return context


def _trust(context: ssl.SSLContext, place: str, name: str) -> None:
    try:
        if Path(place).is_dir():
            context.load_verify_locations(capath=place)
        else:
            context.load_verify_locations(cafile=place)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        reason = "it holds no certificate in PEM" if isinstance(exc, ssl.SSLError) else getattr(exc, "strerror", exc)
        raise ConfigError(f"{name}={place} cannot be used: {reason}") from exc
