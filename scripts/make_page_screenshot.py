"""Make docs/service_page.png, a screenshot of the service's web page in Chromium.

The service is real (mini, in a separate process); the images are those of the challenge set. One half shows an image
with captions, the other a table in dark mode.

    python -m scripts.make_page_screenshot [OUT]
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, ViewportSize, sync_playwright

from tests.support.processes import tool

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "challenge_set"
SIZE: ViewportSize = {"width": 760, "height": 1120}
CAPTIONS = [
    "Breakfast on a red table: a fried egg, bread, coffee and an orange",
    "a cup of coffee and a slice of bread",
    "fruit on a table",
    "A lion, an elephant, a giraffe and a zebra on the dry savanna",
]
ROWS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the screenshot of the service's web page.")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "docs" / "service_page.png")
    options = parser.parse_args()
    with serving() as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
        shots = [of_a_picture(opened(browser, url, "light")), of_a_table(opened(browser, url, "dark"))]
        browser.close()
    both = Image.new("RGB", (2 * SIZE["width"], SIZE["height"]))
    for number, shot in enumerate(shots):
        both.paste(Image.open(io.BytesIO(shot)), (number * SIZE["width"], 0))
    both.quantize(192, dither=Image.Dither.NONE).save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """Run the service on a free port, and yield its address."""
    command = [sys.executable, "-m", "text_image_similarity", "serve", "--port", "0", "--model", "mini", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"serving on (http://[\d.]+:\d+)", line):
                    yield found[1]
                    break
        finally:
            process.terminate()
            process.stderr.read()


def opened(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> Page:
    page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
    page.goto(url)
    page.wait_for_function("() => document.querySelector('#model').value")
    return page


def of_a_picture(page: Page) -> bytes:
    page.set_input_files("#image", PICTURES / "breakfast.jpg")
    page.fill("#captions", "\n".join(CAPTIONS))
    page.click("#image-mode button")
    page.wait_for_function("() => document.querySelector('#image-mode .status').textContent.includes('scored,')")
    return page.screenshot()


def of_a_table(page: Page) -> bytes:
    with (ROOT / "challenge_set.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row[0] == "url" or Path(row[0]).suffix in (".jpg", ".webp")]
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows[: ROWS + 1])
    page.check("[value=table]")
    pictures = [path for path in sorted(PICTURES.iterdir()) if path.suffix in (".jpg", ".webp")]
    content: FilePayload = {"name": "pairs.csv", "mimeType": "text/csv", "buffer": table.getvalue().encode()}
    page.set_input_files("#files", content)
    page.set_input_files("#files", pictures)
    page.click("#table-mode button")
    page.wait_for_function("() => document.querySelector('#table-mode .status').textContent.includes('scored,')")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.scored img')].slice(0, 9).every((i) => i.naturalWidth)"
    )
    return page.screenshot()


if __name__ == "__main__":
    main()
