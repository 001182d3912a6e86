"""One browser for all tests of this folder: Playwright runs once in a process."""

import os
import shutil

import pytest

FLAGS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --no-sandbox"
).split()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; LABKIT_CHROMIUM names it if PATH has none."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("LABKIT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()
