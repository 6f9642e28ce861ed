"""Measure this package on a GPU, by source, size and model, with and without feeders, next to its limit and its peers.

The limit is the rate of the encoder alone, on images and captions that are already on the device, in batches of 256. On
a machine without a GPU, nothing is measured. Inputs and jobs work on any device, so that tests can run them on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..gpu_inputs import GPU_INPUTS, SOURCES, make_large_models, make_tables, records
from ..inputs import INPUTS, MODEL
from ..job import Job
from ..results import Options, Rounds, Section, machine, markdown, mid, rate, ratios, spread

BATCH = 256
COMPARED = 256  # number of scores that are compared with those of a CPU
_SIDES = (256, 512, 1024)
_MODELS = {"ViT-B/32": MODEL, "ViT-L/14": GPU_INPUTS / "vitl14", "SigLIP": GPU_INPUTS / "siglip"}
_USUAL = ("ViT-B/32", "files", 512)
_SETTINGS = (
    *[("ViT-B/32", source, 512) for source in SOURCES],
    *[("ViT-B/32", "files", side) for side in _SIDES if side != 512],
    *[(model, "files", 512) for model in list(_MODELS)[1:]],
)
_TRANSFORMERS, _OPEN_CLIP = ("torch", "transformers"), ("open_clip_torch", "torch")
_PEERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "transformers, documented": ("transformers_loop", {}, _TRANSFORMERS),
    "transformers, fp16, 256 at once": (
        "transformers_loop",
        {"half": True, "batch_size": BATCH, "sort": True},
        _TRANSFORMERS,
    ),
    "sentence-transformers, documented": ("sentence_transformers_clip", {}, ("sentence-transformers", *_TRANSFORMERS)),
    "sentence-transformers, fp16, 256 at once": (
        "sentence_transformers_clip",
        {"half": True, "batch_size": BATCH},
        ("sentence-transformers", *_TRANSFORMERS),
    ),
    "open_clip, documented": ("open_clip_loop", {}, _OPEN_CLIP),
    "open_clip, fp16, 256 at once": (
        "open_clip_loop",
        {"half": True, "batch_size": BATCH, "inference_mode": True},
        _OPEN_CLIP,
    ),
}


def make(folder: str, base: str, sides: list[int], pairs: int, large: bool) -> dict[str, Any]:
    """Write the inputs of the other jobs, unless they exist."""
    for side in sides:
        make_tables(Path(folder), Path(base), side, pairs)
    if large:
        make_large_models(Path(folder))
    return {}


def limit(model: str, device: str, batch: int, batches: int) -> dict[str, Any]:
    """Time the encoder alone, on batches of random pixels, and of a caption of typical length, on the device."""
    import time

    import torch

    from text_image_similarity import Config, load_encoder
    from text_image_similarity.encoders.cuda_lane import capture
    from text_image_similarity.encoders.torch_backend import TorchBackend
    from text_image_similarity.encoders.two_tower import TwoTowerEncoder

    from ..gpu_clock import synchronize

    encoder = load_encoder(Config(model=model, device=device, backend="torch", batch_size=batch))
    assert isinstance(encoder, TwoTowerEncoder)
    backend = encoder.backend
    assert isinstance(backend, TorchBackend)
    there = backend.placement.device
    shape = encoder.prepare(Image.new("RGB", (64, 64))).shape  # (h, w, 3)
    pixels = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=there)
    (row,) = encoder.tokenize(["A man in a red shirt rides a bicycle down a steep hill ."])
    ids = torch.from_numpy(next(backend.tokens.batches([row] * batch, most=batch, step=16))).to(there)
    towers = ((backend.image_tower, pixels), (backend.text_tower, ids))
    calls: list[Callable[[], Any]] = [partial(tower, given) for tower, given in towers]
    with torch.inference_mode():
        for count in (3, batches):  # the first ones warm up
            synchronize(there)
            began = time.perf_counter()
            for _ in range(count):
                for call in calls:
                    call()
            synchronize(there)
            seconds = time.perf_counter() - began
            if count != batches and there.type == "cuda":  # captured as graphs, as in the runs
                streams = [(torch.cuda.Stream(there), torch.cuda.graph_pool_handle()) for _ in towers]
                graphs = [capture(*each, *stream) for each, stream in zip(towers, streams, strict=True)]
                calls = [graph or call for graph, call in zip(graphs, calls, strict=True)]
    return {"pairs": batch * batches, "seconds": seconds, "machine": _machine(there)}


def run(  # noqa: PLR0913 - what is measured, by name
    model: str, source: str, made: str, pairs: int, feeders: bool, options: dict[str, Any], server: str = ""
) -> dict[str, Any]:
    """Time `score_pairs` on a table, after a run on a few of its rows that starts everything.

    Args:
        model: The folder of the model.
        source: The format of the table.
        made: The folder of the tables.
        pairs: The number of rows to score.
        feeders: Whether to use feeders, one for every two cores.
        options: The settings, including the device.
        server: The address of the file server.
    """
    from text_image_similarity import Config, Limits, Scorer
    from text_image_similarity.encoders.torch_backend import TorchBackend
    from text_image_similarity.system import usable_cores

    from ..gpu_clock import DeviceClock
    from ..meter import Meter

    limits = Limits(allow_private_addresses=True, per_host=128)
    count = max(1, usable_cores() // 2) if feeders else 0
    settings: dict[str, Any] = {
        "io_workers": max(32, 4 * usable_cores()),
        "backend": "torch",
        "feeders": count,
        **options,
    }
    with Scorer(Config(model=model, limits=limits, files_under="/", **settings)) as scorer:
        backend: Any = getattr(scorer.encoder, "backend", None)
        assert isinstance(backend, TorchBackend)
        backend.learned.clock = clock = DeviceClock(backend.placement.device)
        list(scorer.score_pairs(islice(records(Path(made), source, server), 4 * scorer.config.batch_size)))
        rows = islice(records(Path(made), source, server), pairs)
        clock.seconds()
        with Meter() as meter:
            results = list(scorer.score_pairs(rows))
        busy = clock.seconds()
    if failed := [result.error for result in results if result.error]:
        raise RuntimeError(f"{len(failed)} rows failed: {failed[0]}")
    return {
        "pairs": len(results),
        "seconds": meter.seconds,
        "cpu_seconds": meter.cpu_seconds,
        "idle": 1 - busy / meter.seconds,
        "feeders": count,
        "scores": [result.similarity for result in results[:COMPARED]],
    }


def lacks() -> str:
    """Return why nothing can be measured here; empty if it can."""
    import torch

    return "" if torch.cuda.is_available() else f"no GPU that torch {torch.__version__} can use"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and on which device.

    Args:
        device: The device, such as `cuda`.
        models: The folders of the models, by the names in `_MODELS`.
        folder: The folder of the tables.
        base: The folder of the photos from which the tables are made.
        pairs: The number of rows in a table.
        settings: The model, source and image size of each run.
        batches: The number of batches for measuring the limit.
    """

    device: str
    models: Mapping[str, Path]
    folder: Path
    base: Path
    pairs: int
    settings: Sequence[tuple[str, str, int]]
    batches: int = 100


def jobs(options: Options) -> list[Job]:
    found = [*jobs_of(Plan("cuda", _MODELS, GPU_INPUTS, INPUTS, options.gpu_pairs, _SETTINGS)), *_peers("cuda", 1900)]
    if python := options.pythons.get("clip-retrieval"):
        used = ("clip-retrieval", "torch")
        arguments: dict[str, Any] = {
            "module": "clip_retrieval_inference",
            "options": {"batch_size": BATCH, "readers": 4},
        }
        arguments |= {"distributions": used, "pairs": 1900}
        found.append(Job("clip-retrieval, 256 at once", "benchmarks.contestants:measure", arguments, python=python))
    return found


def jobs_of(plan: Plan) -> list[Job]:
    """Return the jobs for this package: the inputs, the limits, the reference of each model, and the runs."""
    here = __name__
    sides = sorted({512, *(side for _, _, side in plan.settings)})
    inputs = {"folder": str(plan.folder), "base": str(plan.base), "sides": sides, "pairs": plan.pairs}
    found = [Job("inputs", f"{here}:make", {**inputs, "large": plan.models is _MODELS})]
    for name, model in plan.models.items():
        arguments = {"model": str(model), "device": plan.device, "batch": BATCH, "batches": plan.batches}
        found.append(Job(f"limit {name}", f"{here}:limit", arguments))
        cpu = {"device": "cpu", "precision": "fp32"}
        found.append(_run(plan, f"reference {name}", (name, "files", 512), False, cpu, min(COMPARED, plan.pairs)))
    for setting in plan.settings:
        for feeders in (False, True):
            there = {"device": plan.device, "batch_size": BATCH, "chunk_size": 10_000}
            found.append(_run(plan, _name(setting, feeders), setting, feeders, there, plan.pairs))
    return found


def _run(
    plan: Plan, name: str, setting: tuple[str, str, int], feeders: bool, options: dict[str, Any], pairs: int
) -> Job:
    model, source, side = setting
    made = str(plan.folder / f"{side}-{plan.pairs}")
    arguments = {"model": str(plan.models[model]), "source": source, "made": made, "pairs": pairs, "feeders": feeders}
    delay_ms = 0 if source == "HTTP" else None
    return Job(name, f"{__name__}:run", {**arguments, "options": options}, delay_ms=delay_ms, served=made)


def _peers(device: str, pairs: int) -> list[Job]:
    found = []
    for name, (module, options, used) in _PEERS.items():
        arguments = {"module": module, "options": {"device": device, **options}, "distributions": used, "pairs": pairs}
        found.append(Job(name, "benchmarks.contestants:measure", arguments))
    return found


def _name(setting: tuple[str, str, int], feeders: bool) -> str:
    model, source, side = setting
    return f"{model}, {source}, {side}, {'feeders' if feeders else 'no feeders'}"


def table(rounds: Rounds) -> str:
    lines = []
    for setting in _SETTINGS:
        model, source, side = setting
        for feeders in (False, True):
            if found := rounds.get(_name(setting, feeders)):
                cells = [model, source, f"{side}x{side}", str(found[-1]["feeders"])]
                lines.append(
                    [*cells, *_cells(found, rounds, model), f"{100 * mid(found, lambda one: one['idle']):.0f} %"]
                )
    heads = [
        "",
        "from",
        "JPEG of",
        "feeders",
        "pairs/s",
        "share of the GPU's limit",
        "CPU ms per pair",
        "difference from FP32 on a CPU",
    ]
    parts = [_facts(rounds), markdown([*heads, "GPU idle"], lines, words=3)]
    limits = [[name, f"{mid(found, rate):,.0f}"] for name in _MODELS if (found := rounds.get(f"limit {name}"))]
    parts.append(markdown(["the encoder alone, batches of 256", "pairs/s"], limits))
    ours = rounds.get(_name(_USUAL, True), [])
    peers = [name for name in rounds if name in _PEERS or name.startswith("clip-retrieval")]
    if peers:
        heads = [
            "ViT-B/32 from files of 512x512",
            "pairs/s",
            "share of the GPU's limit",
            "CPU ms per pair",
            heads[-1],
            "our speed-up",
        ]
        of = [[name, *_cells(rounds[name], rounds, "ViT-B/32"), spread(ratios(ours, rounds[name]))] for name in peers]
        parts.append(markdown(heads, of))
    return "\n\n".join(parts)


def _cells(found: list[dict[str, Any]], rounds: Rounds, model: str) -> list[str]:
    limits, reference = rounds.get(f"limit {model}"), rounds.get(f"reference {model}")
    cpu_ms = mid(found, lambda one: 1000 * one["cpu_seconds"] / one["pairs"])
    difference = _difference(found[-1]["scores"], reference[-1]["scores"]) if reference else "n/a"
    return [f"{mid(found, rate):,.0f}", spread(ratios(found, limits)) if limits else "n/a", f"{cpu_ms:.2f}", difference]


def _difference(scores: list[float], reference: list[float]) -> str:
    count = min(len(scores), len(reference))
    return f"{np.abs(np.array(scores[:count]) - np.array(reference[:count])).max():.0e}"


def _machine(device: Any) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return {"gpu": gpu, "torch": f"{torch.__version__}, CUDA {torch.version.cuda}", **machine()}


def _facts(rounds: Rounds) -> str:
    found = next((each[-1]["machine"] for name, each in rounds.items() if name.startswith("limit ")), None)
    if found is None:
        return "The machine is unknown."
    most = max(map(len, rounds.values()))
    return (
        f"{found['gpu']}; {found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB of memory; torch {found['torch']}, "
        f"Python {found['python']}; medians of {most} rounds."
    )


SECTION = Section("gpu", jobs, table, lacks=lacks)
