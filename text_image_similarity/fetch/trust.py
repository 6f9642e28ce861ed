"""Trusted certificates for https: the system's, and those in files named by the caller or the environment.

On Linux, the system's certificates are those of OpenSSL and of the distributions' usual places, plus certifi's list for
containers that have none. macOS and Windows keep theirs in a store that only their own functions can read (truststore).
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
# Platforms whose context holds a lock during the handshake, so that each thread needs its own.
LOCKS_HANDSHAKES = sys.platform in ("darwin", "win32")
_UNVERIFIED = frozenset({18, 19, 20, 21})  # OpenSSL's codes for chains that do not end at a trusted authority


def create_ssl_context(
    ca_file: str | os.PathLike[str] | None = None, environment: Mapping[str, str] | None = None
) -> ssl.SSLContext:
    """Return an SSL context that verifies servers.

    Args:
        ca_file: Additional certificates to trust, in PEM: a file, or a folder with hashed names.
        environment: Environment in which `VARIABLES` are looked up; None is that of the process.

    Raises:
        ConfigError: A named file contains no certificates.
    """
    context = _system_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        _trust(context, str(ca_file), "ca_file")
    places: dict[str, str] = {}  # several variables often name the same file
    for name in VARIABLES:
        value = (os.environ if environment is None else environment).get(name, "")
        for place in filter(None, value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]):
            places.setdefault(place, name)
    for place, name in places.items():
        _trust(context, place, name)
    return context


def explain_untrusted(problem: BaseException | None) -> str:
    """Return advice for a certificate that is not signed by a trusted authority; "" if that is not the problem."""
    if isinstance(problem, ssl.SSLCertVerificationError) and problem.verify_code in _UNVERIFIED:
        return (
            "; if your company's proxy decrypts https, name its root certificate with ca_file (--ca-file) or "
            "SSL_CERT_FILE"
        )
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
        reason = "it contains no PEM certificate" if isinstance(exc, ssl.SSLError) else getattr(exc, "strerror", exc)
        raise ConfigError(f"{name}={place} cannot be used: {reason}") from exc
