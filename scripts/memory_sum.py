"""Write the worst case of the service's memory into docs/operating.md, from its settings: `make docs`.

Everything that strangers can make it hold is there, each at its limit at the same moment. Two parts are measured and not limits: the
process with its model at work, and a decoder's process without an image.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from text_image_similarity.cli import serve
from text_image_similarity.service import Settings
from text_image_similarity.service.http.connections import MOST_CONNECTIONS
from text_image_similarity.service.settings import MOST_BODIES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operating.md"
MARKED = re.compile(r"(<!-- memory: written by make docs -->\n).*?(<!-- end -->\n)", re.DOTALL)
CORES = 2  # as the deployments give a replica
MIB = 1 << 20

_PROCESS = 870 * MIB  # with ViT-B/32 under load, docs/performance.md
_WORKER = 64 * MIB  # Python, Pillow and NumPy
_PER_PIXEL = 14  # bytes while an image is decoded
_PIXELS = 4  # bytes of one that is
_VECTOR = 512 * 4 + 300  # of ViT-B/32, with what finds it again
_INPUT = 3 * 224 * 224 * 4  # of ViT-B/32, for one image
_CONNECTION = 128 * 1024  # what has come and is not read, and what is not sent


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the sum.

    Args:
        what: What takes the memory.
        size: How that follows from the settings.
        most: Bytes at most.
    """

    what: str
    size: str
    most: int


def parts(settings: Settings, cores: int) -> list[Part]:
    """Return what a service takes at most, part by part."""
    config = settings.models[settings.default]
    limits, body = config.limits, settings.max_body_bytes
    if config.isolate_decoder:
        decoding = cores * (limits.decode_memory + _WORKER)
        said = "a core: `decode_memory` and 64 MiB (`--isolate-decoder`)"
    else:
        decoding, said = (
            cores * _PER_PIXEL * limits.max_pixels,
            f"a core: {_PER_PIXEL} bytes for each of `--max-pixels`",
        )
    shared = cores * max(limits.max_bytes, 3 * limits.max_pixels) if config.isolate_decoder else 0
    return [
        Part("the process, its libraries and ViT-B/32 at work", "measured", _PROCESS),
        Part(
            "bodies and answers, and the images in them",
            f"{MOST_BODIES} `--max-body-mb`, counted as what their texts take, twice",
            2 * MOST_BODIES * body,
        ),
        Part(
            "a body that is being read, or an answer written", "5 `--max-body-mb` more than what is counted", 5 * body
        ),
        Part("`data:` URLs that are being decoded", "a core: 5 `--max-body-mb`", 5 * cores * body),
        Part(
            "downloads, until they are decoded",
            "a thread of `--io-workers`: `--max-bytes`, twice",
            2 * config.io_workers * limits.max_bytes,
        ),
        Part("decoding", said, decoding),
        Part("what is shared with the decoders", "a core: 3 bytes a pixel", shared),
        Part(
            "images that are decoded",
            f"a core: two, {_PIXELS} bytes a pixel",
            2 * cores * _PIXELS * limits.max_pixels,
        ),
        Part(
            "images and captions that wait for the model",
            "`--max-inflight`, 0.6 MB each",
            settings.max_inflight * _INPUT,
        ),
        Part("embeddings that are known", "`--cache-entries`, 2.3 kB each", settings.cache_entries * _VECTOR),
        Part("connections", f"{MOST_CONNECTIONS}, 128 KiB each", MOST_CONNECTIONS * _CONNECTION),
    ]


def settings_for(arguments: list[str]) -> Settings:
    """Return the settings of `serve` with some arguments; keys do not matter."""
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
    """Return a page with the sum of today between its marks."""
    columns = {"the defaults": parts(settings_for([]), CORES)}
    columns |= {name: parts(settings_for(arguments), CORES) for name, (arguments, _) in deployed().items()}
    lines = [f"| MiB, with {CORES} cores | how much | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for row in zip(*columns.values(), strict=True):
        size = row[0].size if row[0].size == row[-1].size else f"{row[0].size}; {row[-1].size}"
        lines.append(f"| {row[0].what} | {size} | {' | '.join(f'{part.most / MIB:,.0f}' for part in row)} |")
    sums = (f"**{sum(part.most for part in column) / MIB:,.0f}**" for column in columns.values())
    limits = (f"{limit / MIB:,.0f}" for _, limit in deployed().values())
    lines += [f"| **together** | | {' | '.join(sums)} |", f"| the limit of the container | | | {' | '.join(limits)} |"]
    if not MARKED.search(page):
        raise ValueError("the page must have a mark for the sum of memory")
    return MARKED.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], page)


def _bytes(text: str) -> int:
    """Read a limit of compose or Kubernetes in GiB, which compose calls G."""
    return int(text.removesuffix("i").removesuffix("G")) << 30


if __name__ == "__main__":
    PAGE.write_text(documented(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
