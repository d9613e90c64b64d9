from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.certificates import certificate
from tests.runtime.server.page.browser import CODE, Browser, needs_chromium
from tests.runtime.server.serving import Server, serve
from tests.toy_engine import toy_manifest, write_toy_engine

pytestmark = needs_chromium
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(23, 24, 23)"
# Contrast of each piece of visible text with what lies under it, by WCAG 2.
CONTRAST = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const [r, g, b] = numbers(colour).map((each) => each / 255)
    .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const under = (element) => {
  for (let at = element; at; at = at.parentElement ?? at.getRootNode().host) {
    const colour = getComputedStyle(at).backgroundColor;
    const [, , , alpha = 1] = numbers(colour);
    if (alpha === 1) return colour;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
const walk = (root) => {
  for (const element of root.querySelectorAll("*")) {
    if (element.shadowRoot) walk(element.shadowRoot);
    const hasText = [...element.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!hasText || !element.checkVisibility() || element.closest(".unseen, :disabled")) continue;
    const [a, b] = [getComputedStyle(element).color, under(element)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
  }
};
walk(document);
return found;
"""


def test_a_key_is_asked_for_once_a_tab(browser: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    engine = write_toy_engine(tmp_path / "engine", certificate=certificate())
    with serve(engine, tmp_path, "--api-key-file", str(keys)) as server:
        browser.visit(server.address)
        assert browser.focus() == "key-value"
        assert browser.text("#certificate") == ""
        assert not browser.find("#key-refused").is_displayed()
        browser.press("wrong", Keys.ENTER)
        browser.wait("!document.getElementById('key-refused').hidden")
        browser.press("sesame", Keys.ENTER)
        browser.wait("document.querySelector('#certificate p')")
        assert not browser.find("#key").is_displayed()
        browser.driver.refresh()
        browser.ready()
        assert browser.text("#certificate p") != ""
        link = browser.find("#certificate a").get_attribute("href")
        assert "sesame" not in f"{link}{browser.driver.current_url}"
        browser.driver.get(str(link))
        assert "Verdict and gates" in browser.driver.page_source
        assert browser.run("return localStorage.length") == 0


def test_engines_are_chosen_by_name(browser: Browser, tmp_path: Path) -> None:
    model = dataclasses.replace(toy_manifest().model, name="Other")
    other = dataclasses.replace(toy_manifest(fim=False), model=model)
    engines = [write_toy_engine(tmp_path / "other", other)]
    toy = write_toy_engine(tmp_path / "toy", toy_manifest(chat=False), certificate=certificate())
    with serve(toy, tmp_path, engines=engines) as server:
        browser.visit(server.address)
        assert "deepseek-toy" in browser.text("#summary")
        assert not browser.find("#question").is_enabled()
        browser.find("#engines").send_keys("deepseek-other")
        browser.wait("document.getElementById('summary').textContent.includes('deepseek-other')")
        assert browser.find("#question").is_enabled()
        assert "No certificate" in browser.text("#certificate")
        browser.driver.refresh()
        browser.ready()
        assert "deepseek-other" in browser.text("#summary")


def test_light_and_dark_follow_the_system_and_a_switch(browser: Browser, demo: Server) -> None:
    for scheme, colour in (("dark", DARK), ("light", LIGHT)):
        browser.prefer(scheme)
        browser.visit(demo.address)
        assert browser.run(BACKGROUND) == colour
    browser.find("[name=theme][value=dark]").click()
    assert browser.run(BACKGROUND) == DARK
    browser.driver.refresh()
    browser.ready()
    assert browser.run(BACKGROUND) == DARK
    browser.find("[name=theme][value=auto]").click()
    assert browser.run(BACKGROUND) == LIGHT
    assert browser.errors() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["chat", "editor"])
def test_text_stands_out_from_what_is_under_it(
    browser: Browser, demo: Server, scheme: str, view: str
) -> None:
    browser.prefer(scheme)
    browser.visit(demo.address, view=view)
    if view == "chat":
        browser.press("write a quick sort", Keys.ENTER)
        browser.wait("document.getElementById('log').querySelector('pre')")
        browser.wait("document.getElementById('stop').hidden")
    else:
        browser.wait(f"{CODE}.querySelector('.ghost')")
    assert browser.run(CONTRAST) == []
    browser.prefer("light")


def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, demo: Server) -> None:
    browser.size(360, 740, phone=True)
    try:
        browser.visit(demo.address)
        browser.press("write a quick sort", Keys.ENTER)
        browser.wait("document.querySelector('#log pre') && document.getElementById('stop').hidden")
        wide = "return document.documentElement.scrollWidth > innerWidth"
        low = "return document.getElementById('send').getBoundingClientRect().bottom <= innerHeight"
        assert not browser.run(wide)
        assert browser.run(low)
        browser.find("#summary").click()
        assert not browser.run(wide)
        assert browser.find(".keys").is_displayed()
        browser.find("#summary").click()
        browser.find("#editor-tab").click()
        browser.wait(f"{CODE}.querySelector('.ghost')")
        assert not browser.run(wide)
    finally:
        browser.emulate("clearDeviceMetricsOverride")


def test_everything_is_reached_by_tab_in_order_and_seen(browser: Browser, demo: Server) -> None:
    browser.visit(demo.address)
    browser.run("document.querySelector('.skip').focus()")
    reached: list[str] = []
    outlined = (
        "const at = document.activeElement, style = getComputedStyle(at);"
        "const box = getComputedStyle(at.closest('form') ?? at);"
        "return style.outlineStyle !== 'none' || at.closest('#composer') !== null"
        " && box.borderColor !== getComputedStyle(document.querySelector('aside')).borderColor"
    )
    while "send" not in reached and len(reached) < 20:
        browser.press(Keys.TAB)
        reached.append(browser.focus())
        assert browser.run(outlined), reached
    # The engine, the appearance; the conversation, and the next message.
    assert reached == ["summary", "input", "chat-tab", "log", "question", "send"]
    # Arrows go from tab to tab.
    browser.find("#chat-tab").click()
    browser.run("document.getElementById('chat-tab').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.focus() == "editor-tab"
    assert browser.find("#editor").is_displayed()


@pytest.mark.parametrize("view", ["chat", "editor"])
def test_everything_that_can_be_used_has_a_name(browser: Browser, demo: Server, view: str) -> None:
    browser.visit(demo.address, view=view)
    nodes: list[Any] = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "combobox", "checkbox", "radio", "tab", "link", "log", "tabpanel"}
    unnamed, named = [], set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in roles and not node.get("ignored"):
            name = node.get("name", {}).get("value", "")
            (named.add(role) if name else unnamed.append(role))
    assert unnamed == []
    assert {"button", "textbox", "radio", "tab"} <= named or view == "editor"
    assert browser.run("return document.documentElement.lang") == "en"
    levels = "return [...document.querySelectorAll('h1, h2')].map((each) => each.tagName)"
    assert browser.run(levels)[0] == "H1"
