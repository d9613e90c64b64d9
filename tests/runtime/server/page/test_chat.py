from __future__ import annotations

import signal
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from tests.runtime.server.page.browser import Browser, needs_chromium
from tests.runtime.server.page.link import held_link
from tests.runtime.server.serving import Server, serve
from tests.runtime.server.talking import roomy_engine
from tests.toy_engine import toy_manifest, write_toy_engine

pytestmark = needs_chromium
ANSWER = "#log article.assistant .said"
COMPLETE = "document.querySelector('#announcement').textContent === 'The answer is complete.'"
LAST_NOTE = "return [...document.querySelectorAll('#log article .note')].at(-1)?.textContent"
HOSTILE = """<script>window.hit = 1</script>
<img src="http://elsewhere.example/x" onerror="window.hit = 1">

A [link](javascript:window.hit=1), a [good one](https://example.com/), **bold** and
`code`, \\*no\\*.

![picture](http://elsewhere.example/y) <b onclick="window.hit = 1">text</b> &amp;

1. one
   ```python
   x = "<i>1</i>"

   y = 2
   ```
2. two

| a | b |
| - | - |
| 1 | <u>2</u> |
"""


def test_an_answer_comes_with_its_speed_and_its_code_can_be_copied(
    browser: Browser, demo: Server
) -> None:
    browser.visit(demo.address)
    assert browser.focus() == "question"
    browser.press("write a quick sort", Keys.ENTER)
    browser.wait(COMPLETE)
    browser.wait(f"document.querySelector('{ANSWER} figure button')")
    assert browser.text("#log article.user .said") == "write a quick sort"
    assert "def" in browser.text(f"{ANSWER} code")
    assert "first token" in browser.text("#chat-speed")
    assert "tokens/s" in browser.text("#chat-speed")
    assert browser.run("return document.getElementById('log').ariaBusy") == "false"
    browser.find(f"{ANSWER} figure button").click()
    browser.wait(f"document.querySelector('{ANSWER} figure button').textContent !== 'Copy'")
    # The next question goes with what was said before.
    browser.press(Keys.ENTER)
    browser.find("#question").click()
    browser.press("and shorter", Keys.ENTER)
    browser.wait("document.querySelectorAll('#log article').length === 4")
    browser.wait(COMPLETE)
    assert browser.errors() == []
    assert browser.asked() == {demo.address.removeprefix("http://")}


def test_what_an_answer_spells_is_text_and_nothing_else(browser: Browser, tmp_path: Path) -> None:
    with serve(roomy_engine(tmp_path / "engine", HOSTILE), tmp_path) as server:
        browser.visit(server.address)
        browser.press("x", Keys.ENTER)
        browser.wait(COMPLETE)
        browser.wait(f"document.querySelectorAll('{ANSWER} td').length === 2")
        shown = browser.text(ANSWER)
        for text in ("<script>window.hit = 1</script>", "<img src=", "<b onclick=", "<u>2</u>"):
            assert text in shown
        assert "*no*" in shown
        found = browser.run(
            f"const at = document.querySelector('{ANSWER}');"
            "return [window.hit ?? null, at.querySelectorAll('script, img, b, u, i').length,"
            "[...at.querySelectorAll('a')].map((each) => each.href),"
            "at.querySelector('strong').textContent, at.querySelector('ol figure pre').textContent]"
        )
        assert found == [None, 0, ["https://example.com/"], "bold", 'x = "<i>1</i>"\n\ny = 2']
        assert browser.asked() == {server.address.removeprefix("http://")}
        assert browser.errors() == []


def test_an_answer_can_be_stopped_and_what_has_come_stays(browser: Browser, demo: Server) -> None:
    with held_link(demo.address) as link:
        browser.visit(link.address)
        for by_key in (False, True):
            browser.press("write a quick sort", Keys.ENTER)
            browser.wait(f"[...document.querySelectorAll('{ANSWER}')].at(-1)?.textContent")
            assert not browser.find("#send").is_displayed()
            if by_key:
                browser.press(Keys.ESCAPE)
            else:
                browser.find("#stop").click()
            browser.wait("document.getElementById('stop').hidden")
            assert browser.run(LAST_NOTE) == "Stopped."
            assert browser.text(ANSWER)
            assert browser.focus() == "question"
        assert browser.errors() == []


def test_an_answer_that_is_cut_off_says_so(browser: Browser, demo: Server) -> None:
    with held_link(demo.address) as link:
        browser.visit(link.address)
        browser.press("write a quick sort", Keys.ENTER)
        browser.wait(f"document.querySelector('{ANSWER}')?.textContent")
        link.cut()
        browser.wait("document.querySelector('#log [role=alert]')")
        assert "The connection ended before the answer did." in browser.run(LAST_NOTE)
        assert browser.text(ANSWER)


def test_what_the_server_refuses_is_said_in_words_and_can_be_asked_again(
    browser: Browser, tmp_path: Path
) -> None:
    with serve(write_toy_engine(tmp_path / "engine"), tmp_path) as server:
        browser.visit(server.address)
        browser.press("x" * 80, Keys.ENTER)
        browser.wait("document.querySelector('#log [role=alert]')")
        said = browser.text("#log [role=alert]")
        assert "the context holds 64" in said
        assert said.endswith("Ask again")
        browser.find("#log [role=alert] button").click()
        browser.wait("document.querySelectorAll('#log [role=alert]').length === 1")
        assert browser.run("return document.querySelectorAll('#log article.user').length") == 1
    browser.find("#question").click()
    browser.press("still there?", Keys.ENTER)
    browser.wait("document.querySelectorAll('#log [role=alert]').length === 2")
    browser.wait("document.getElementById('health').textContent")
    assert browser.text("#health") == "The server cannot be reached."
    words = "return [...document.querySelectorAll('#log [role=alert]')].at(-1).textContent"
    assert "cannot be reached. It may be stopping or starting again." in browser.run(words)


def test_a_server_that_closes_says_so_while_answers_run(browser: Browser, tmp_path: Path) -> None:
    # Answers that follow one another for longer than a browser takes to look.
    body = {"prompt": "a", "n": 128, "max_tokens": 2000, "ignore_eos": True, "stream": True}
    options = ["--drain", "60", "--max-batch", "1", "--max-queue", "200"]
    with (
        serve(roomy_engine(tmp_path / "engine"), tmp_path, *options) as server,
        server.client.stream("POST", "/v1/completions", json=body) as running,
    ):
        lines = running.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        browser.visit(server.address)
        browser.wait("document.getElementById('health').textContent")
        assert browser.text("#health") == "The server is shutting down."


def test_an_engine_without_chat_says_so(browser: Browser, tmp_path: Path) -> None:
    engine = write_toy_engine(tmp_path / "engine", toy_manifest(chat=False))
    with serve(engine, tmp_path) as server:
        browser.visit(server.address)
        assert "was not trained to chat" in browser.text("#chat-refusal")
        assert not browser.find("#question").is_enabled()
        browser.find("#editor-tab").click()
        assert not browser.find("#editor-refusal").is_displayed()
