"""Takes the pictures of the page: the two in docs/images, or with a folder every view and colour.

Run it as `python -m docs.screenshots [FOLDER]`; it serves `engines/demo-int4`, and builds it where
there is none. The pictures look as on our screens with Inter and JetBrains Mono installed
(Debian: fonts-inter, fonts-jetbrains-mono).
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from tests.runtime.server.page.browser import CODE, Browser, start_browser
from tests.runtime.server.serving import serve

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engines" / "demo-int4"
IMAGES = ROOT / "docs" / "images"
# Width and height in points, points in pixels, and whether it is a phone.
SCREENS = {"desktop": (1160, 720, 1.0, False), "phone": (390, 780, 2.0, True)}
COMMITTED = (("desktop", "editor", "light"), ("desktop", "chat", "dark"))


def main(folder: Path | None) -> None:
    """Take them."""
    if not ENGINE.is_dir():
        build = ["trtcoder", "build", str(ROOT / "demo" / "checkpoint"), "--out", str(ENGINE)]
        subprocess.run([*build, "--weights", "int4"], check=True)
    with (
        tempfile.TemporaryDirectory() as work,
        serve(ENGINE, Path(work)) as server,
        start_browser(Path(work) / "profile") as browser,
    ):
        for screen, (width, height, scale, is_phone) in SCREENS.items():
            for view in ("chat", "editor"):
                for scheme in ("light", "dark"):
                    name = f"page-{view}-{scheme}-{screen}.png"
                    if folder is None and (screen, view, scheme) not in COMMITTED:
                        continue
                    browser.size(width, height, scale=scale, phone=is_phone)
                    browser.prefer(scheme)
                    browser.visit(server.address, view=view)
                    (_ask if view == "chat" else _suggest)(browser)
                    target = IMAGES / f"page-{view}.png" if folder is None else folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(_picture(browser))
                    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


def _ask(browser: Browser) -> None:
    browser.press("write a quick sort algorithm in python.", Keys.ENTER)
    browser.wait("document.getElementById('log').querySelector('figure')")
    browser.wait("document.getElementById('stop').hidden")


def _suggest(browser: Browser) -> None:
    browser.wait(f"{CODE}.querySelector('.ghost')")
    browser.wait("document.getElementById('editor-state').textContent === ''")


def _picture(browser: Browser) -> bytes:
    # A tab's transitions end, and its caret is drawn.
    browser.run("for (const each of document.getAnimations()) each.finish()")
    taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"optimizeForSpeed": False})
    return base64.b64decode(taken["data"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
