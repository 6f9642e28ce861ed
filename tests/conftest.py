"""Fixtures that several rooms use, where tests run, and the option that lets no test be skipped unnoticed."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from hypothesis import settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from text_image_similarity import ExportSummary

# An example may take long on a busy machine.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
# Before transformers is imported anywhere: nothing under test may ask a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Before torch is: with as many processes as cores, its threads must sleep while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Every JVM that tests start has a third less to compute.
os.environ["SPARK_CONF_DIR"] = str(Path(__file__).parent / "support" / "spark")
# Exported models go to a cache of this session's own, not to the home of whoever runs the tests; one for all its
# processes, so that each model is exported once.
_CACHE = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="text-image-similarity-tests-")
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
_SHARED = Path(os.environ["XDG_CACHE_HOME"])

from tests.support.server import Server  # noqa: E402 - after the environment is set

# Files that take longest, so that no process is left with one of them at the end; by turns such as wait for other
# processes and such as compute.
_LONG = (
    "tests/system/test_images.py",
    "tests/system/test_hostile_load.py",
    "tests/system/test_spark_recipe.py",
    "tests/training/test_train.py",
    "tests/ray_data/test_dataset.py",
    "tests/encoders/test_backends.py",
    "tests/doors/test_parity.py",
    "tests/system/test_page.py",
    "tests/system/test_ray_serve.py",
    "tests/spark/test_dataframe.py",
    "tests/spark/test_engine.py",
    "tests/decode/test_corpus.py",
    "tests/doors/test_clusters.py",
    "tests/system/test_recipes.py",
    "tests/search/stores/test_contract.py",
    "tests/system/test_new_model.py",
    "tests/tables/test_resume.py",
    "tests/search/test_crash.py",
    "tests/test_docs.py",
    "tests/encoders/test_mini.py",
    "tests/encoders/test_neighbours.py",
    "tests/encoders/test_open_clip.py",
    "tests/tables/test_score.py",
    "tests/system/test_endurance.py",
    "tests/search/test_predictor.py",
    "tests/system/test_full_size.py",
    "tests/test_gate.py",
    "tests/formats/test_formats.py",
    "tests/report/test_report.py",
    "tests/service/test_fuzz.py",
    "tests/fetch/test_faults.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail if a test is skipped that needs no GPU or network")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # One of several processes, which has sent its results by then. Triton's bindings, which torch's exporter loads,
        # would report everything that Python tears down after them as leaked.
        atexit.register(os._exit, 0)
    elif config.getoption("--no-skips"):
        config.pluginmanager.register(NoSkips())


class NoSkips:
    """Fails a run in which a test was skipped, unless it is marked as in need of a GPU or of the network."""

    def __init__(self) -> None:
        self._skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail") and not {"gpu", "network"} & set(report.keywords):
            self._skipped.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid in self._skipped:
            terminalreporter.write_line(f"SKIPPED, which --no-skips forbids: {nodeid}", red=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Any:
    """Keep a file's tests in one process, as `--dist loadfile` does, those that share a Spark session, and those of Ray.

    Two clusters of Ray at once would keep each other waiting until neither starts in time.
    """
    if config.getoption("dist") != "loadfile":
        return None
    # Not by groups: with pytest 9.2, xdist 3.8 ignores them (pytest-xdist#1386).
    scheduler = import_module("xdist.scheduler").LoadFileScheduling(config, log)
    file_of = scheduler._split_scope
    together = {
        "spark": ("tests/spark/", "tests/system/test_spark_recipe.py"),
        "ray": ("tests/ray_data/", "tests/system/test_ray_serve.py", "tests/doors/test_clusters.py"),
    }

    def scope_of(test: str) -> str:
        file = file_of(test)
        return next((name for name, files in together.items() if file.startswith(files)), file)

    scheduler._split_scope = scope_of
    return scheduler


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage in nothing that is imported now, neither while it is, which would take 3 s, nor later."""
    gc.disable()
    atexit.register(gc.unfreeze)  # or bindings would report what is never looked at as leaked
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest: the files named above, then slow tests and those that start Spark or Ray."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")

    def place(item: pytest.Item) -> tuple[int, bool]:
        file = item.nodeid.partition("::")[0]
        return (
            _LONG.index(file) if file in _LONG else len(_LONG),
            not any(map(item.get_closest_marker, ("spark", "ray", "slow"))),
        )

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let reports with half a character in their log pass from process to process, which takes UTF-8."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


def pytest_sessionfinish() -> None:
    if _CACHE is not None:
        _CACHE.cleanup()


@pytest.fixture(scope="session")
def made_once() -> Callable[[str, Callable[[Path], object]], Path]:
    """Return what gives a folder of this session that the first of its processes to ask for it makes; nobody changes it."""

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = _SHARED / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                make(folder.with_name(f"{name}.partial"))
                folder.with_name(f"{name}.partial").rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_clip(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    from tests.support.models import save_clip

    return made_once("tiny_clip", save_clip)


@pytest.fixture(scope="session")
def tiny_siglip(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    from tests.support.models import save_siglip

    return made_once("tiny_siglip", save_siglip)


@pytest.fixture(scope="session")
def exported(tiny_clip: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> tuple[Path, ExportSummary]:
    """The tiny CLIP, exported for ONNX Runtime, and what `export_model` said; whoever changes it takes a copy."""
    from text_image_similarity import Config, export_model

    def export(folder: Path) -> None:
        folder.mkdir()
        (folder / "summary.pickle").write_bytes(pickle.dumps(export_model(Config(model=tiny_clip), folder / "tiny")))

    place = made_once("exported", export)
    return place / "tiny", pickle.loads((place / "summary.pickle").read_bytes())


@pytest.fixture(autouse=True)
def _unsafe_path() -> Iterator[None]:
    """Let the next test's own programs import modules from the repository, which `main` keeps its processes from."""
    yield
    os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what a command that runs in this process does to logging."""
    root, ours = logging.getLogger(), logging.getLogger("text_image_similarity")
    handlers, levels, factory = root.handlers[:], (root.level, ours.level), logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)  # Ray, which other tests start here, adds fields to every record
    yield
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the first of certifi's certificates."""
    import certifi

    first, end, _ = Path(certifi.where()).read_text(encoding="ascii").partition("-----END CERTIFICATE-----\n")
    path = tmp_path_factory.mktemp("authority") / "first.pem"
    path.write_text(first + end, encoding="ascii")
    return path


@pytest.fixture
def few_authorities(one_authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust one authority besides those that a test names: reading all of them takes each fetcher 60 ms."""
    from text_image_similarity.fetch import trust

    monkeypatch.setattr("certifi.where", lambda: str(one_authority))
    monkeypatch.setattr(trust, "_SYSTEM_FILES", ())
    for name in trust.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from tests.support.spark_sessions import local_session

    with local_session() as session:
        yield session
