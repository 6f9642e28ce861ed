"""The end of every command's help: examples, the meaning of its exit codes, and a link to the documentation."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

EXIT_CODES = {
    0: "finished; some rows of a table may have failed",
    1: "the job failed",
    2: "wrong usage",
    3: "another run is writing the output",
    4: "all rows failed, or more rows failed than allowed",
    130: "interrupted with Ctrl-C",
    143: "ended by SIGTERM",
}
_OF_ALL = (0, 1, 2, 130)
_OTHERS = {  # exit codes that only these commands use
    "score": (3, 4, 143),
    "embed": (3, 4, 143),
    "match-table": (3, 4, 143),
    "filter": (3,),
    "train": (3,),
    "catalog add": (4, 143),
    "catalog reindex": (143,),
}

_PAGES = {
    "score": ("score", "report", "embed", "filter"),
    "models": ("models", "evaluate", "train", "export"),
    "catalog": ("catalog",),
    "search": ("match", "match-table"),
    "serve": ("serve",),
}

EXAMPLES = {
    "score": (
        "score photo.jpg 'a cat' 'a dog' --model mini",
        "score pairs.csv scored.csv",
        "score pairs.parquet scored.parquet --model mini --report scores.html",
        "score photos/ scored.csv --max-failures 5% --device cuda",
    ),
    "report": ("report scored.csv scores.html",),
    "models": ("models", "models --json"),
    "embed": (
        "embed products.csv vectors.parquet --model mini --col image_url",
        "embed pairs.csv vectors.parquet --of captions --npy vectors.npy",
    ),
    "filter": (
        "filter scored.csv --plan",
        "filter scored.csv kept.csv --min 0.28",
        "filter scored.csv kept.csv --top 30%",
    ),
    "evaluate": ("evaluate captions.parquet --model mini", "evaluate captions.parquet --model mini --against accurate"),
    "train": ("train photos.parquet my-model", "train photos.parquet my-model --resume"),
    "export": ("export mini mini-onnx", "export mini-onnx --check-only"),
    "serve": ("serve --model mini", "serve --host 0.0.0.0 --port 8080 --model mini --api-key-file keys.txt"),
    "match": ("match shop.catalog 'red shoes'", "match shop.catalog --image shoe.jpg --where 'price <= 90'"),
    "match-table": ("match-table shop.catalog wishes.csv matched.csv --text-col wish",),
    "catalog": ("catalog create shop.catalog --fields-from products.csv", "catalog add shop.catalog products.csv"),
    "catalog create": ("catalog create shop.catalog --fields-from products.csv",),
    "catalog add": ("catalog add shop.catalog products.csv",),
    "catalog delete": ("catalog delete shop.catalog 1017",),
    "catalog show": ("catalog show shop.catalog",),
    "catalog export": ("catalog export shop.catalog products.csv",),
    "catalog optimize": ("catalog optimize shop.catalog",),
    "catalog reindex": ("catalog reindex shop.catalog --model accurate",),
    "catalog set-model": ("catalog set-model shop.catalog exports/clip",),
    "catalog switch": ("catalog switch shop.catalog",),
    "catalog rollback": ("catalog rollback shop.catalog",),
    "catalog drop": ("catalog drop shop.catalog",),
    "catalog check": ("catalog check shop.catalog",),
    "catalog calibrate": ("catalog calibrate shop.catalog judged.csv",),
    "catalog log": ("catalog log shop.catalog",),
}


def add_epilogs(parsers: Mapping[str, argparse.ArgumentParser]) -> None:
    """Add the examples and exit codes to each command's help.

    Args:
        parsers: The parser of each command, by its name, such as `score` or `catalog add`.
    """
    for name, parser in parsers.items():
        lines = ["examples:", *(f"  text-image-similarity {example}" for example in EXAMPLES[name]), "", "exit codes:"]
        lines += [f"  {code:<4} {EXIT_CODES[code]}" for code in sorted([*_OF_ALL, *_OTHERS.get(name, ())])]
        command = name.partition(" ")[0]
        page = next(page for page, commands in _PAGES.items() if command in commands)
        parser.epilog = "\n".join([*lines, "", f"documentation: docs/command_line_{page}.md#{command}"])
