"""Write the service's worst-case memory into docs/operating.md, from its settings; `make docs` runs it.

The sum covers everything that clients can make the service hold, with every part at its limit at the same time. Two
parts are measured instead: the process while its model runs, and a decoder process without an image.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from text_image_similarity.cli import serve
from text_image_similarity.pipeline.feeders import look_ahead_of
from text_image_similarity.preprocess import MOST_SIDE
from text_image_similarity.search.match_log import writer
from text_image_similarity.service import Settings
from text_image_similarity.service.http.peers import MOST_CONNECTIONS
from text_image_similarity.service.search.results import MOST_BYTES
from text_image_similarity.service.search.upkeep import AT_ONCE
from text_image_similarity.service.settings import MOST_BODIES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operating.md"
MARKED = re.compile(r"(<!-- memory: written by make docs -->\n).*?(<!-- end -->\n)", re.DOTALL)
CORES = 2  # as many as a replica has in the deployments
MIB = 1 << 20

_PROCESS = 870 * MIB  # with ViT-B/32 under load; see docs/performance.md
_WORKER = 64 * MIB  # Python, Pillow and NumPy
_PER_PIXEL = 14  # bytes per pixel while an image is decoded
_PIXELS = 4  # bytes per pixel of a decoded image
_VECTOR = 512 * 4 + 300  # of ViT-B/32, with its key
_INPUT = 3 * 224 * 224 * 4  # one image for ViT-B/32
_CONNECTION = 128 * 1024  # bytes received but not read, and bytes not sent yet


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the sum.

    Args:
        what: What takes the memory.
        size: How the amount follows from the settings.
        most: The maximum number of bytes.
    """

    what: str
    size: str
    most: int


def parts(settings: Settings, cores: int, image: int = _INPUT, *, prepares: bool = True) -> list[Part]:
    """Return the maximum memory of a service, part by part.

    Args:
        settings: Its settings.
        cores: Number of cores.
        image: Bytes of an image that waits for the model.
        prepares: Whether images wait at the model's size.
    """
    config = settings.models[settings.default]
    limits, body = config.limits, settings.max_body_bytes
    if config.isolate_decoder:
        decoding = cores * (limits.decode_memory + _WORKER)
        said = "per core: `decode_memory` and 64 MiB (`--isolate-decoder`)"
    else:
        decoding, said = (
            cores * _PER_PIXEL * limits.max_pixels,
            f"per core: {_PER_PIXEL} bytes for each of `--max-pixels`",
        )
    shared = cores * max(limits.max_bytes, 3 * limits.max_pixels) if config.isolate_decoder else 0
    return [
        Part("the process and its libraries, with ViT-B/32 running", "measured", _PROCESS),
        Part(
            "request and response bodies, and the images in them",
            f"{2 * MOST_BODIES} times `--max-body-mb`: twice the memory that the texts of {MOST_BODIES} bodies may take",
            2 * MOST_BODIES * body,
        ),
        Part(
            "a body that is being read, or a response that is being written",
            "5 times `--max-body-mb`, in addition to the row above",
            5 * body,
        ),
        Part("`data:` URLs that are being decoded", "per core: 5 times `--max-body-mb`", 5 * cores * body),
        Part(
            "downloads, until they are decoded",
            "per thread of `--io-workers`: twice `--max-bytes`",
            2 * config.io_workers * limits.max_bytes,
        ),
        Part("decoding", said, decoding),
        Part("memory shared with the decoders", "per core: 3 bytes per pixel", shared),
        Part(
            "decoded images",
            f"per core: two images, {_PIXELS} bytes per pixel",
            2 * cores * _PIXELS * limits.max_pixels,
        ),
        Part(
            "images and captions that are waiting for the model",
            "`--max-inflight`, 0.6 MB each",
            settings.max_inflight * image,
        ),
        Part("cached embeddings", "`--cache-entries`, 2.3 kB each", settings.cache_entries * _VECTOR),
        Part(
            "writes to catalogues",
            f"per catalogue: downloads as above, and {AT_ONCE} writes with {(ahead := look_ahead_of(config, prepares=prepares))} images "
            "of 0.6 MB each",
            len(settings.catalogs) * (2 * config.io_workers * limits.max_bytes + AT_ONCE * ahead * image),
        ),
        Part(
            "searches in catalogues",
            f"per catalogue: {MOST_BYTES >> 20} MiB of cached results, and 7 times `--max-body-mb` for the products of a query and "
            "their JSON",
            len(settings.catalogs) * (MOST_BYTES + 7 * body),
        ),
        Part(
            "entries that are waiting for a match log",
            f"per catalogue: twice {writer.MOST_BYTES >> 20} MiB, because the JSON of those being written is counted too",
            2 * len(settings.catalogs) * writer.MOST_BYTES,
        ),
        Part("connections", f"{MOST_CONNECTIONS}, 128 KiB each", MOST_CONNECTIONS * _CONNECTION),
    ]


def others(settings: Settings, cores: int) -> list[Part]:
    """Return how much more memory a service takes with a model of larger images, or with images at full size."""
    usual = sum(part.most for part in parts(settings, cores))

    def more(image: int, prepares: bool) -> int:
        return sum(part.most for part in parts(settings, cores, image, prepares=prepares)) - usual

    full = _PIXELS * settings.models[settings.default].limits.max_pixels
    return [
        Part(
            "in addition, with a model of the largest images",
            f"instead of 0.6 MB: 3 bytes for each of {MOST_SIDE:,} x {MOST_SIDE:,} pixels",
            more(3 * MOST_SIDE**2, True),
        ),
        Part(
            "in addition, with an encoder that has no `prepare`",
            f"instead of 0.6 MB: {_PIXELS} bytes for each of `--max-pixels`",
            more(full, False),
        ),
    ]


def settings_for(arguments: list[str]) -> Settings:
    """Return the settings of `serve` with some arguments, without its API keys, which do not matter."""
    parser = argparse.ArgumentParser()
    serve.add(parser.add_subparsers())
    options = parser.parse_args(["serve", *(word for word in arguments if "api-key" not in word)])
    return serve.settings_of(options, {})


def deployed() -> dict[str, tuple[list[str], int]]:
    """Return the arguments and the memory limit, in bytes, of the replicas in each file under deploy/."""
    folder = ROOT / "deploy" / "service"
    files = {
        "compose": (folder / "compose.yaml", "scorer-1"),
        "Triton": (ROOT / "deploy/triton/compose.yaml", "scorer"),
    }
    services = {
        name: yaml.safe_load(file.read_text(encoding="utf-8"))["services"][key] for name, (file, key) in files.items()
    }
    pod = yaml.safe_load((folder / "kubernetes" / "deployment.yaml").read_text(encoding="utf-8"))
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    return {
        **{
            name: (each["command"], _bytes(each["deploy"]["resources"]["limits"]["memory"]))
            for name, each in services.items()
        },
        "Kubernetes": (container["args"], _bytes(container["resources"]["limits"]["memory"])),
    }


def documented(page: str) -> str:
    """Return a page with the up-to-date table between its markers."""
    shown = {"the defaults": settings_for([])}
    shown |= {name: settings_for(arguments) for name, (arguments, _) in deployed().items()}
    columns = {name: parts(settings, CORES) for name, settings in shown.items()}
    lines = [f"| MiB, with {CORES} cores | how much | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    lines += map(_line, zip(*columns.values(), strict=True))
    sums = (f"**{sum(part.most for part in column) / MIB:,.0f}**" for column in columns.values())
    limits = (f"{limit / MIB:,.0f}" for _, limit in deployed().values())
    lines += [f"| **together** | | {' | '.join(sums)} |", f"| the limit of the container | | | {' | '.join(limits)} |"]
    lines += map(_line, zip(*(others(settings, CORES) for settings in shown.values()), strict=True))
    if not MARKED.search(page):
        raise ValueError("the page must have a mark for the table of memory")
    return MARKED.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], page)


def _line(row: tuple[Part, ...]) -> str:
    size = row[0].size if row[0].size == row[-1].size else f"{row[0].size}; {row[-1].size}"
    return f"| {row[0].what} | {size} | {' | '.join(f'{part.most / MIB:,.0f}' for part in row)} |"


def _bytes(text: str) -> int:
    """Read a memory limit of compose or Kubernetes in GiB, which compose writes as G."""
    return int(text.removesuffix("i").removesuffix("G")) << 30


if __name__ == "__main__":
    PAGE.write_text(documented(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
