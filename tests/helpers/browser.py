"""A headless Chromium for tests of web pages, and waiting for them."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE = 300.0
"""Seconds; the machine may be busy."""


@contextmanager
def headless_chromium() -> Iterator[Any]:
    """A driver of Selenium; where that or the browser is missing, the test is skipped and says what it needs."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no browser: install the packages chromium and chromium-driver (Debian: make browser, as root)")
    webdriver = pytest.importorskip("selenium.webdriver", reason='no selenium: pip install -e ".[dev]"')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    arguments = ["--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,1000"]
    for argument in arguments + ["--no-sandbox"] * (os.geteuid() == 0):  # Chromium refuses to sandbox root's pages
        options.add_argument(argument)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        yield started
    finally:
        started.quit()


def requested(driver: Any) -> set[str]:
    """Addresses that the browser asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return {
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    }


def wait_for(condition: Callable[[], Any], *ignored: type[Exception]) -> Any:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if result := condition():
                return result
        except ignored:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
