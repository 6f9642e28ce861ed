"""Certificates of a company's own: from a file, from the environment, and what is said where they are missing."""

from __future__ import annotations

from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.faults import Certificates
from tests.support.server import Server, response
from text_image_similarity import Config, ConfigError, Limits, Record, RowError, score_pairs
from text_image_similarity.client import ServiceEngine
from text_image_similarity.dataset import ImageLoader
from text_image_similarity.fetch import Fetcher
from text_image_similarity.fetch.trust import VARIABLES, create_ssl_context

CONFIG = Config(retries=0, limits=Limits(allow_private_addresses=True))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def fetched(config: Config, certificates: Certificates) -> bytes | str:
    with Server(partial(certificates.server("good").wrap_socket, server_side=True)) as server:
        server.routes["/x"] = response(b"picture")
        fetcher = Fetcher(config)
        try:
            return fetcher.fetch(f"https://127.0.0.1:{server.port}/x")
        except RowError as error:
            return str(error)
        finally:
            fetcher.close()


def test_a_stranger_is_not_trusted_and_the_way_out_is_named(certificates: Certificates) -> None:
    found = fetched(CONFIG, certificates)
    assert isinstance(found, str)
    assert found.startswith("tls_error: TLS: [SSL: CERTIFICATE_VERIFY_FAILED]")
    assert found.endswith("name its root certificate with ca_file (--ca-file) or SSL_CERT_FILE")


@pytest.mark.parametrize("name", [name for name in VARIABLES if name != "SSL_CERT_DIR"])
def test_a_file_that_the_environment_names_is_trusted(
    certificates: Certificates, ca_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(ca_file))
    assert fetched(CONFIG, certificates) == b"picture"


@pytest.mark.parametrize("name", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "ca_file"])
def test_a_folder_of_certificates_is_trusted(
    certificates: Certificates, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / f"{subject_hash(ca_file)}.0").write_bytes(ca_file.read_bytes())
    if name == "ca_file":
        config = Config(retries=0, limits=CONFIG.limits, ca_file=folder)
    else:
        config = CONFIG
        monkeypatch.setenv(name, f"/nowhere:{folder}" if name == "SSL_CERT_DIR" else str(folder))
    if name == "SSL_CERT_DIR":  # the first of its folders is missing
        assert (
            fetched(config, certificates)
            == "tls_error: SSL_CERT_DIR=/nowhere cannot be used: No such file or directory"
        )
        monkeypatch.setenv(name, str(folder))
    assert fetched(config, certificates) == b"picture"


def subject_hash(path: Path) -> str:
    """Return the name that OpenSSL looks for: a digest of the subject without its outer header, which is in small letters."""
    name = x509.load_pem_x509_certificate(path.read_bytes()).subject.public_bytes()
    return f"{int.from_bytes(sha1(name[2:]).digest()[:4], 'little'):08x}"


def test_a_file_that_is_given_is_trusted_beside_the_system(certificates: Certificates, ca_file: Path) -> None:
    config = Config(retries=0, limits=CONFIG.limits, ca_file=ca_file)
    assert fetched(config, certificates) == b"picture"
    alone = create_ssl_context(None, {}).cert_store_stats()["x509_ca"]
    assert create_ssl_context(ca_file, {}).cert_store_stats()["x509_ca"] == alone + 1
    assert alone > 100  # certifi's list


@pytest.mark.parametrize(
    "content", [None, b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_certificates_is_refused_at_once(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    config = Config(model="mini", ca_file=path)
    with pytest.raises(ConfigError, match=r"ca_file=.*ca\.pem cannot be used: "):
        Fetcher(config)
    with pytest.raises(ConfigError, match="ca_file"):
        score_pairs([Record("a.jpg", "a")], config)
    with pytest.raises(ConfigError, match="ca_file"):
        ImageLoader(config)
    with pytest.raises(ConfigError, match="ca_file"), ServiceEngine("https://127.0.0.1:1") as engine:
        engine.start(Config(ca_file=path))


def test_an_environment_that_is_wrong_costs_https_alone(
    certificates: Certificates, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    found = fetched(CONFIG, certificates)
    assert found == "tls_error: SSL_CERT_FILE=/nowhere/ca.pem cannot be used: No such file or directory"
    server.routes["/x"] = response(b"picture")
    fetcher = Fetcher(CONFIG)
    assert fetcher.fetch(server.url("/x")) == b"picture"
    fetcher.close()


def test_nothing_is_loaded_before_it_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("no certificates are needed")

    monkeypatch.setattr("text_image_similarity.fetch.transport.create_ssl_context", refuse)
    (tmp_path / "a.png").write_bytes(b"picture")
    fetcher = Fetcher(Config(base_dir=tmp_path))
    assert fetcher.fetch("a.png") == b"picture"
    fetcher.close()


def test_a_service_is_trusted_as_the_environment_says(
    certificates: Certificates, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with Server(partial(certificates.server("good").wrap_socket, server_side=True)) as server:
        with (
            ServiceEngine(f"https://127.0.0.1:{server.port}") as engine,
            pytest.raises(Exception, match="returned 404"),
        ):
            engine.start(Config())
        assert server.hits["/v1/info"] == 1
