"""`python -m benchmarks --only gpu` from its inputs to its page, on the CPU and with tiny models, because there may be no GPU yet."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import contestants
from benchmarks.gpu_inputs import SOURCES
from benchmarks.inputs import Row
from benchmarks.job import Job
from benchmarks.render import render
from benchmarks.results import Results
from benchmarks.sections import gpu
from benchmarks.server import serving
from tests.support.paths import ROOT

PAIRS = 12


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Five photos with five captions each, as the other sections have them."""
    folder = tmp_path / "base"
    (folder / "photos").mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "pairs5.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("url", "caption"))
        for number in range(5):
            small = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
            small.resize((512, 512)).save(folder / "photos" / f"{number}.jpg")
            lines.writerows((f"photos/{number}.jpg", f"a dog {number} and {k} cats") for k in range(5))
    return folder


def done(job: Job) -> dict[str, Any]:
    """Do what a job says in this process, with what JSON keeps of its arguments."""
    module, _, name = job.function.partition(":")
    with serving(job.delay_ms, Path(job.served)) as server:
        arguments = json.loads(json.dumps(job.arguments)) | ({"server": server} if server else {})
        found: dict[str, Any] = getattr(import_module(module), name)(**arguments)
    return found


@pytest.mark.extended
def test_the_section_runs_on_any_device_and_fills_its_block(
    base: Path, tiny_clip: Path, tiny_siglip: Path, tmp_path: Path
) -> None:
    models = {"ViT-B/32": tiny_clip, "SigLIP": tiny_siglip}
    settings = [*(("ViT-B/32", source, 512) for source in SOURCES), ("SigLIP", "files", 256)]
    plan = gpu.Plan("cpu", models, tmp_path / "tables", base, PAIRS, settings, batches=1)
    results = Results()
    for job in gpu.jobs_of(plan):
        results.add("gpu", job.name, done(job))
    runs = {name: found[0] for name, found in results.rounds["gpu"].items() if "feeders" in name}
    assert len(runs) == 2 * len(settings)
    scores = {name: found["scores"] for name, found in runs.items() if name.startswith("ViT")}
    assert len({tuple(each) for each in scores.values()}) == 1, "every source and both ways give the same scores"
    assert len(set(next(iter(scores.values())))) == PAIRS
    assert all(found["pairs"] == PAIRS and 0 < found["idle"] < 1 for found in runs.values())
    assert {bool(found["feeders"]) for found in runs.values()} == {False, True}

    page = tmp_path / "performance.md"
    page.write_text((ROOT / "docs" / "performance-gpu.md").read_text())
    assert "Not measured: " in page.read_text()
    render(results, page)
    block = re.search(r"<!-- benchmark:gpu -->\n(.*?)<!-- /benchmark:gpu -->", page.read_text(), re.DOTALL)
    assert block is not None
    lines = [[cell.strip() for cell in line.split("|")] for line in block[1].splitlines()]
    assert [line[1:4] for line in lines if line[1:3] == ["ViT-B/32", "HTTP"]] == [["ViT-B/32", "HTTP", "512x512"]] * 2
    assert [line[8] for line in lines if line[1:2] == ["ViT-B/32"] and len(line) > 9] == ["0e+00"] * 8
    assert all(line[9].endswith("%") for line in lines if line[1:2] == ["SigLIP"] and len(line) > 9)


@pytest.mark.parametrize("name", [name for name, (module, *_) in gpu._PEERS.items() if module == "transformers_loop"])
def test_the_peers_are_asked_on_the_device(
    name: str, base: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that read any CLIP folder and are installed everywhere; in fp16 their scores are near those in FP32."""
    (job,) = [job for job in gpu._peers("cpu", PAIRS) if job.name == name]
    module = import_module(f"{contestants.__name__}.{job.arguments['module']}")
    monkeypatch.setattr(module, "MODEL", tiny_clip)
    rows = [Row(str(path), f"a dog and {path.stem} cats") for path in sorted((base / "photos").iterdir())]
    scores, exact = (list(module.load(**options)(rows)) for options in (job.arguments["options"], dict[str, Any]()))
    assert np.abs(np.array(scores) - np.array(exact)).max() < 5e-3
    assert len(set(scores)) == len(rows)


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    if not gpu.lacks():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks", "--only", "gpu", "--page", str(tmp_path / "none.md")]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.fullmatch(r"gpu: not measured: no GPU that torch \S+ can use\n", said)


def test_the_jobs_name_functions_and_files_that_exist() -> None:
    options = type("Options", (), {"gpu_pairs": 10, "pythons": {"clip-retrieval": "python"}})()
    jobs = gpu.jobs(options)
    assert len({job.name for job in jobs}) == len(jobs) == 1 + 2 * 3 + 2 * 8 + 6 + 1
    for job in jobs:
        module, _, name = job.function.partition(":")
        assert callable(getattr(import_module(module), name))
        if "module" in job.arguments:
            assert (ROOT / "benchmarks" / "contestants" / f"{job.arguments['module']}.py").is_file()
