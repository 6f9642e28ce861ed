"""Create sample_catalog/: a table of 36 products, and an image of each.

    .venv/bin/python -m scripts.make_sample_catalog

The products are listed here by hand. The table's columns say what the images show, so the table decides whether a
result for "a red bag", or for the image of the blue bag and "red", is right. The images are drawn by `products.py` from
our own shapes, so they may be shared freely.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.products import draw_product

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "sample_catalog"


@dataclass(frozen=True, slots=True)
class Design:
    """The properties that the variants of a product share; a variant is `color pattern price in_stock added`."""

    group: str
    kind: str
    category: str
    description: str
    variants: tuple[str, ...]


DESIGNS = (
    Design("runner", "shoe", "Footwear", "A light shoe with a white sole for running and for every day.", (
        "red plain 79.90 yes 2026-03-02", "blue plain 79.90 yes 2026-03-02", "black plain 84.90 no 2026-04-13",
        "green striped 89.00 yes 2026-06-01", "yellow dotted 69.00 yes 2026-06-01",
    )),
    Design("hiker", "boot", "Footwear", "A sturdy boot with a high shaft for mud, rain and snow.", (
        "brown plain 129.00 yes 2025-10-06", "black plain 129.00 yes 2025-10-06", "red plain 134.50 no 2026-01-19",
    )),
    Design("city", "bag", "Bags", "A handbag with a flap, a golden clasp and room for a book.", (
        "red plain 59.00 yes 2026-02-09", "blue plain 59.00 yes 2026-02-09", "brown plain 64.00 yes 2026-02-09",
        "green striped 62.50 no 2026-05-11", "yellow dotted 62.50 yes 2026-05-11",
    )),
    Design("trail", "backpack", "Bags", "A backpack with a front pocket for school and day trips.", (
        "blue plain 74.00 yes 2026-01-12", "green plain 74.00 yes 2026-01-12", "red plain 74.00 no 2026-01-12",
        "black striped 79.00 yes 2026-07-20",
    )),
    Design("summer", "shirt", "Clothing", "A cotton shirt with short sleeves and a round neck.", (
        "red plain 19.90 yes 2026-04-27", "blue striped 24.90 yes 2026-04-27", "green plain 19.90 yes 2026-04-27",
        "yellow plain 19.90 no 2026-05-25", "black dotted 24.90 yes 2026-06-22",
    )),
    Design("ranger", "hat", "Clothing", "A felt hat with a wide brim and a band.", (
        "brown plain 39.00 yes 2025-11-17", "red plain 39.00 yes 2026-08-03", "green plain 42.00 no 2026-08-03",
    )),
    Design("storm", "umbrella", "Accessories", "A large umbrella with a wooden handle.", (
        "red plain 34.50 yes 2025-09-15", "blue striped 36.50 yes 2025-09-15", "yellow dotted 36.50 yes 2026-03-30",
    )),
    Design("kitchen", "chair", "Home", "A wooden chair with a slatted back for the kitchen or the desk.", (
        "brown plain 99.00 yes 2025-12-01", "red plain 99.00 yes 2025-12-01", "blue plain 109.00 no 2026-02-23",
    )),
    Design("evening", "lamp", "Home", "A table lamp with a cloth shade and a brass stand.", (
        "red plain 45.00 yes 2026-01-05", "green plain 45.00 yes 2026-01-05",
    )),
    Design("morning", "mug", "Home", "A mug for a quarter of a litre of coffee, tea or cocoa.", (
        "blue plain 12.50 yes 2026-05-04", "yellow plain 12.50 yes 2026-05-04", "black dotted 14.00 no 2026-07-06",
    )),
)  # fmt: skip
COLUMNS = (
    "id", "name", "description", "category", "kind", "color", "pattern", "price", "in_stock", "added", "group", "image",
)  # fmt: skip


def rows() -> list[dict[str, str]]:
    """Return the rows of the table, one per product."""
    found = []
    for design in DESIGNS:
        for variant in design.variants:
            color, pattern, price, in_stock, added = variant.split()
            words = [color, *([pattern] if pattern != "plain" else []), design.kind]
            values = (
                f"{design.group}-{color}", " ".join(words).capitalize(), design.description, design.category, design.kind,
                color, pattern, price, str(in_stock == "yes").lower(), added, design.group, f"images/{'_'.join(words)}.jpg",
            )  # fmt: skip
            found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def main(folder: Path = FOLDER) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = rows()
    for row in table:
        picture = draw_product(row["kind"], row["color"], row["pattern"])
        picture.save(folder / row["image"], quality=85, optimize=True)
    with (folder / "products.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    total = sum(path.stat().st_size for path in (folder / "images").iterdir())
    print(f"{len(table)} products, {total / 1e3:.0f} kB of images")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
