"""Make docs/report.png, a screenshot in Chromium of the report of a run over the web.

The run is real (mini, score_csv), but the web is not: four hosts serve crops of the challenge set's images, one of them
unreliably, and every fourth caption belongs to another image.

    python -m scripts.make_report_screenshot [--dark] [--width 1200] [--height 1500] [OUT]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import subprocess
import tempfile
from pathlib import Path

import httpx
from PIL import Image

from tests.support.processes import tool
from text_image_similarity import Config, LocalEngine, score_csv
from text_image_similarity.report import ReportRow, make_report

ROOT = Path(__file__).resolve().parent.parent
ROWS = 1500
HOSTS = {"img.shop.example": 0.01, "cdn.photos.example": 0.02, "old-blog.example": 0.4, "static.news.example": 0.03}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the screenshot of a report.")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "docs" / "report.png")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=1500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = make_page(Path(folder))
        command = [tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += ["--hide-scrollbars", f"--window-size={options.width},{options.height}"]
        command += ["--blink-settings=preferredColorScheme=0"] if options.dark else []
        shot = Path(folder) / "shot.png"
        subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=90)
        Image.open(shot).convert("RGB").quantize(192, dither=Image.Dither.NONE).save(options.out, optimize=True)
        print(f"{options.out}: {options.out.stat().st_size:,} bytes; the page: {page.stat().st_size:,} bytes")


def make_page(folder: Path) -> Path:
    """Score a table of made-up URLs, and write its report."""
    chance = random.Random(7)
    with (ROOT / "challenge_set.csv").open(newline="", encoding="utf-8") as file:
        known = [row for row in csv.DictReader(file) if Image.registered_extensions().get(Path(row["url"]).suffix)][:46]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["url", "caption"])
        for number in range(ROWS):
            row, host = chance.choice(known), chance.choices(list(HOSTS), (50, 30, 6, 14))[0]
            caption = row["caption"] if number % 4 else chance.choice(known)["caption"]
            table.writerow([f"https://{host}/{number:05d}/{Path(row['url']).name}", caption])
    transport, config = httpx.MockTransport(serve), Config(model="mini", retries=0, chunk_size=50)
    paths = folder / "pairs.csv", folder / "scored.csv"
    score_csv(*paths, config, engine=LocalEngine(transport=transport))
    summary = json.loads((folder / "scored.csv.summary.json").read_text(encoding="utf-8"))
    summary |= {"input": "pairs.csv", "output": "scored.csv"}
    with (folder / "scored.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            ReportRow(number, row["url"], row["caption"], float(row["similarity"] or "nan"), row["error"] or None)
            for number, row in enumerate(csv.DictReader(file), 1)
        ]
    make_report(rows, summary, config, folder / "report.html", transport=transport)
    return folder / "report.html"


def serve(request: httpx.Request) -> httpx.Response:
    """Respond as a host would, with a crop of an image or an error; the same URL always gets the same response."""
    chance = random.Random(str(request.url))
    if chance.random() < HOSTS[request.url.host]:
        trouble = chance.choices(["404", "503", "slow", "page"], (5, 1, 2, 2))[0]
        if trouble == "slow":
            raise httpx.ReadTimeout("too slow", request=request)
        if trouble == "page":
            return httpx.Response(200, text="<!doctype html><title>Moved</title>")
        return httpx.Response(int(trouble))
    picture = Image.open(ROOT / "challenge_set" / Path(request.url.path).name).convert("RGB")
    width, height = picture.size
    left, top = chance.randrange(width // 8 + 1), chance.randrange(height // 8 + 1)
    out = io.BytesIO()
    picture.crop((left, top, width - chance.randrange(width // 8 + 1), height - left // 2)).save(out, "JPEG")
    return httpx.Response(200, content=out.getvalue())


if __name__ == "__main__":
    main()
