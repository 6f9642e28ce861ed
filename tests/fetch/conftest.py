from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.faults import Certificates


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def ca_file(certificates: Certificates, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(certificates.authority)
    return path
