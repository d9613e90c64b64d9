"""Headless Chromium on the page, and what it saw: errors, and the hosts that it asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
INSTALL = "apt-get install --yes --no-install-recommends chromium chromium-driver"
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason=f"needs Chromium and its driver: {INSTALL}"
)
_FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-dev-shm-usage", "disable-background-networking", "disable-component-update",
    "disable-sync", "disable-default-apps", "hide-scrollbars", "lang=en-US",
    "force-color-profile=srgb",
)  # fmt: skip
_PATIENCE = 30.0
# The editor's part of the document, as an expression.
CODE = "document.getElementById('code').shadowRoot"


class Browser:
    """One tab, in which the page of a server is opened."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def visit(self, address: str, **storage: str) -> None:
        """Load the page as somebody who was never there; ``storage`` is what the tab remembers.

        What was complained about and asked for before is forgotten.
        """
        self.driver.get(f"{address}/page/icon.svg")
        self.run("sessionStorage.clear(); localStorage.clear()")
        for name, value in storage.items():
            self.run("sessionStorage.setItem(...arguments)", f"trtcoder.{name}", value)
        self.errors()
        self.asked()
        self.driver.get(f"{address}/")
        self.ready()

    def ready(self) -> None:
        """Wait until the page knows its engines, or asks for a key."""
        self.wait("document.querySelector('#certificate p, #key:not([hidden])')")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> None:
        """Wait for a condition of the page, an expression."""
        WebDriverWait(self.driver, _PATIENCE, 0.02).until(
            lambda _: self.run(f"return Boolean({condition})"), condition
        )

    def find(self, selector: str) -> WebElement:
        """Return an element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return an element's text."""
        return str(self.run(f"return document.querySelector({selector!r}).textContent"))

    def press(self, *keys: str, holding: str = "") -> None:
        """Press keys where the focus is, each of those in ``holding`` held down."""
        chain = ActionChains(self.driver, duration=0)
        for key in holding:
            chain.key_down(key)
        for key in keys:
            chain.send_keys(key)
        for key in reversed(holding):
            chain.key_up(key)
        chain.perform()

    def focus(self) -> str:
        """Return the id of the element that has the focus, or its tag."""
        found = "document.activeElement"
        return str(self.run(f"return {found}.id || {found}.tagName.toLowerCase()"))

    def code(self) -> str:
        """Return the editor's text, without the suggestion."""
        return str(self.run("return sessionStorage.getItem('trtcoder.text')"))

    def ghost(self) -> str | None:
        """Return the suggestion, or None."""
        found: str | None = self.run(f"return {CODE}.querySelector('.ghost')?.textContent ?? null")
        return found

    def emulate(self, command: str, **values: Any) -> None:
        """Tell the browser of a screen or a preference, over its DevTools protocol."""
        self.driver.execute_cdp_cmd(f"Emulation.{command}", values)

    def size(self, width: int, height: int, *, scale: float = 1, phone: bool = False) -> None:
        """Give the page a screen."""
        self.emulate(
            "setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
            mobile=phone,
        )  # fmt: skip

    def prefer(self, scheme: str) -> None:
        """Prefer light or dark colours, as the system's setting does."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.emulate("setEmulatedMedia", features=[feature])

    def errors(self) -> list[str]:
        """Return what the console has had to complain about since the last call."""
        return [
            entry["message"]
            for entry in self._log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def asked(self) -> set[str]:
        """Return the hosts that were asked for anything since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        urls = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return {urlsplit(url).netloc for url in urls}

    def _log(self, name: str) -> list[dict[str, Any]]:
        driver: Any = self.driver  # which has no types for it
        found: list[dict[str, Any]] = driver.get_log(name)
        return found


@contextmanager
def start_browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in _FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(DRIVER or ""))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
