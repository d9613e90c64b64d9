from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.runtime.server.page.browser import CODE, Browser, needs_chromium
from tests.runtime.server.serving import Server, serve
from tests.toy_engine import toy_manifest, write_toy_engine

pytestmark = needs_chromium
GHOST = f"{CODE}.querySelector('.ghost')"
QUIET = "document.getElementById('editor-state').textContent === ''"
LINES = f"[...{CODE}.querySelectorAll('.cm-line')]"

COUNTING = """
const real = fetch;
window.questions = 0;
window.fetch = (path, options) => {
  window.questions += path === "/v1/completions";
  return real(path, options);
};
"""


@pytest.fixture
def editor(browser: Browser, demo: Server) -> Iterator[Browser]:
    """The editor with the sample and a whole suggestion."""
    browser.visit(demo.address)
    browser.press("`", holding=Keys.CONTROL)
    browser.wait(f"{GHOST} && {QUIET}")
    yield browser
    assert browser.errors() == []
    assert browser.asked() <= {demo.address.removeprefix("http://")}


def shown(browser: Browser) -> str:
    """Return the text of the editor, with the suggestion."""
    return str(browser.run(f"return {LINES}.map((each) => each.textContent).join('\\n')"))


def own(browser: Browser) -> str:
    """Return the text of the editor, without the suggestion."""
    return str(
        browser.run(
            f"return {LINES}.map((each) => {{ const copy = each.cloneNode(true);"
            "copy.querySelector('.ghost')?.remove(); return copy.textContent; }).join('\\n')"
        )
    )


def test_tab_takes_a_suggestion_and_undo_takes_it_back(editor: Browser) -> None:
    before, ghost, whole = own(editor), editor.ghost(), shown(editor)
    assert ghost
    assert "first token" in editor.text("#editor-speed")
    editor.press(Keys.TAB)
    editor.wait(f"!{GHOST} || {GHOST}.textContent !== {ghost!r}")
    # What was grey is the text now, at the same places.
    assert own(editor) == whole
    assert editor.focus() == "code"
    editor.press("z", holding=Keys.CONTROL)
    assert own(editor) == before
    editor.press("z", holding=f"{Keys.CONTROL}{Keys.SHIFT}")
    assert own(editor) == whole


def test_a_tap_takes_a_suggestion_where_there_is_no_tab(editor: Browser) -> None:
    whole = shown(editor)
    editor.find("#language").click()
    ghost: WebElement = editor.run(f"return {GHOST}")
    ghost.click()
    assert own(editor) == whole
    assert editor.focus() == "code"


def test_escape_drops_a_suggestion_and_control_space_asks_again(editor: Browser) -> None:
    before, ghost = own(editor), editor.ghost()
    editor.press(Keys.ESCAPE)
    assert editor.ghost() is None
    assert own(editor) == before
    # Without a suggestion, Tab indents.
    editor.press(Keys.TAB)
    assert own(editor) != before
    editor.press("z", holding=Keys.CONTROL)
    assert editor.ghost() is None
    editor.press(Keys.SPACE, holding=Keys.CONTROL)
    editor.wait(f"{GHOST} && {QUIET}")
    assert editor.ghost() == ghost


def test_a_suggestion_is_taken_word_by_word(editor: Browser) -> None:
    whole, ghost = shown(editor), editor.ghost() or ""
    rests = [ghost]
    for _ in range(4):
        editor.press(Keys.ARROW_RIGHT, holding=Keys.CONTROL)
        rests.append(editor.ghost() or "")
        # The whole does not change: only more of it is text.
        assert shown(editor) == whole
    for before, after in itertools.pairwise(rests):
        assert before.endswith(after)
        assert before != after


def test_typing_what_is_suggested_keeps_the_suggestion(editor: Browser) -> None:
    whole, ghost = shown(editor), editor.ghost() or ""
    editor.run(COUNTING)
    editor.press(ghost[0], ghost[1])
    assert editor.ghost() == ghost[2:]
    assert shown(editor) == whole
    # A timer that was set before, for less, has run by now.
    editor.driver.execute_async_script("setTimeout(arguments[0], 200)")
    assert editor.run("return window.questions") == 0
    # Another letter ends it, and a new one is asked for.
    editor.press("\u00e9")
    assert f"{ghost[:2]}\u00e9" in own(editor)
    editor.wait("window.questions === 1")
    editor.press(Keys.HOME)
    assert editor.ghost() is None


def test_an_input_method_composes_undisturbed(editor: Browser) -> None:
    before = own(editor)
    editor.run(COUNTING)
    composing = {"text": "\u306b", "selectionStart": 1, "selectionEnd": 1}
    editor.driver.execute_cdp_cmd("Input.imeSetComposition", composing)
    assert editor.ghost() is None
    editor.driver.execute_cdp_cmd("Input.insertText", {"text": "\u65e5"})
    assert len(own(editor)) == len(before) + 1
    assert "left = \u65e5" in own(editor)
    # When it is done, a suggestion is asked for as after any other letter.
    editor.wait("window.questions > 0")


def test_a_suggestion_stands_where_its_text_will_stand(editor: Browser) -> None:
    places = (
        f"const ghost = {GHOST}; const line = ghost.closest('.cm-line');"
        "const range = document.createRange(); range.selectNodeContents(ghost);"
        "const boxes = [...range.getClientRects()].filter((each) => each.width > 0);"
        "const tops = [...new Set(boxes.map((each) => Math.round(each.top)))];"
        "return [tops.length, Math.round(line.getBoundingClientRect().height)]"
    )
    ghost = editor.ghost() or ""
    rows, height = editor.run(places)
    assert rows == ghost.count("\n") + 1 > 1
    single = editor.run(f"return Math.round({LINES}[0].getBoundingClientRect().height)")
    assert abs(height - rows * single) <= rows
    # Letters of one width: two of a line, one of the text and one of the suggestion, align.
    fonts = f"return [{GHOST}, {LINES}[0]].map((each) => getComputedStyle(each).fontFamily)"
    of_ghost, of_text = editor.run(fonts)
    assert of_ghost == of_text


def test_the_keyboard_gets_out_of_the_editor(editor: Browser) -> None:
    editor.press(Keys.ESCAPE)
    editor.press(Keys.ESCAPE, Keys.TAB)
    assert editor.focus() != "code"


def test_an_engine_that_does_not_fill_in_says_so(browser: Browser, tmp_path: Path) -> None:
    engine = write_toy_engine(tmp_path / "engine", toy_manifest(fim=False))
    with serve(engine, tmp_path) as server:
        browser.visit(server.address, view="editor")
        assert "not trained to fill in the middle" in browser.text("#editor-refusal")
        assert not browser.find("#typing").is_enabled()
        assert browser.find("#question").is_enabled()
        assert browser.errors() == []


def test_a_text_survives_a_reload(browser: Browser, demo: Server) -> None:
    browser.visit(demo.address, view="editor", text="", typing="false")
    browser.wait("document.activeElement.id === 'code'")
    browser.press("x = 1")
    assert own(browser) == "x = 1"
    browser.driver.refresh()
    browser.ready()
    assert own(browser) == "x = 1"
    assert browser.ghost() is None
