"""Make docs/search_page.webp, search_page_dark.webp and search_page_phone.webp, screenshots of the search page.

The screenshots are taken in Chromium. The service is real (mini, in a separate process), and searches the sample
catalogue.

    python -m scripts.make_search_screenshots [FOLDER]
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from scripts.make_page_screenshot import serving
from tests.support.processes import tool

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample_catalog"
WINDOW = {"width": 1280, "height": 940}
PHONE = {"width": 390, "height": 844}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the screenshots of the search page.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    with serving("--catalog", f"sample={SAMPLE / 'products.csv'}") as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
        shots = {
            "search_page": of_words(browser, url),
            "search_page_dark": of_a_picture(browser, url),
            "search_page_phone": on_a_phone(browser, url),
        }
        browser.close()
    for name, shot in shots.items():
        out = options.folder / f"{name}.webp"
        Image.open(io.BytesIO(shot)).convert("RGB").save(out, quality=82, method=6)
        print(f"{out}: {out.stat().st_size:,} bytes")


def of_words(browser: Browser, url: str) -> bytes:
    page = opened(browser, f"{url}/search?text=a+red+shoe&is.in_stock=true", viewport=WINDOW)
    page.click(".because summary >> nth=0")
    return page.screenshot()


def of_a_picture(browser: Browser, url: str) -> bytes:
    """Take a screenshot of a search by words and an image, steered away from a product."""
    address = f"{url}/search?text=something+green&unlike=trail-green&without=a+hat"
    page = opened(browser, address, viewport=WINDOW, color_scheme="dark")
    page.set_input_files("#image", SAMPLE / "images" / "blue_bag.jpg")
    page.wait_for_function("() => document.querySelector('.reasons').textContent.includes('your image')")
    settle(page)
    page.click(".because summary >> nth=0")
    return page.screenshot()


def on_a_phone(browser: Browser, url: str) -> bytes:
    page = opened(
        browser, f"{url}/search?text=a+green+bag", viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    return page.screenshot()


def opened(browser: Browser, address: str, **options: Any) -> Page:
    page = browser.new_context(reduced_motion="reduce", **options).new_page()
    page.goto(address)
    page.wait_for_selector(".product")
    settle(page)
    return page


def settle(page: Page) -> None:
    """Wait for the results, and for the images that are in view."""
    page.wait_for_function(
        """() => !document.querySelector('#results').ariaBusy && [...document.querySelectorAll('.shot img')].every(
            (image) => image.naturalWidth || image.getBoundingClientRect().top > innerHeight || !image.offsetHeight)"""
    )


if __name__ == "__main__":
    main()
