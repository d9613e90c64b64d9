from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import certificate
from tests.runtime.server.serving import Server, serve
from tests.toy_engine import toy_manifest, write_toy_engine
from trtcoder.bundle.manifest import FileInfo
from trtcoder.runtime.server.page.certificate import certificate_lines

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = tmp_path_factory.mktemp("toy") / "engine"
    return write_toy_engine(engine, certificate=certificate())


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(folder, tmp_path_factory.mktemp("server")) as started:
        yield started


def test_browsers_get_the_page_and_clients_a_word(server: Server) -> None:
    page = server.client.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<!DOCTYPE html>" in page.text
    plain = server.client.get("/")
    assert plain.text == "Ollama is running"
    assert page.headers["vary"] == plain.headers["vary"] == "accept"
    for headers in ({}, BROWSER):
        found = server.client.head("/", headers=headers)
        assert (found.status_code, found.content) == (200, b"")


def test_the_page_is_bound_to_this_server(server: Server) -> None:
    for path in ("/", "/page/page.js", "/page/page.css"):
        headers = server.client.get(path, headers=BROWSER).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_list_of_endpoints_comes_from_no_other_host(server: Server) -> None:
    found = server.client.get("/docs")
    for path in ("POST /v1/completions", "POST /api/chat", "GET /metrics"):
        assert f"<dt>{path}</dt>" in found.text
    assert "<script" not in found.text
    assert "//" not in found.text
    assert "default-src 'none'" in found.headers["content-security-policy"]


def test_files_that_have_not_changed_are_not_sent_again(server: Server) -> None:
    first = server.client.get("/page/codemirror.js")
    assert first.headers["cache-control"] == "no-cache"
    again = server.client.get(
        "/page/codemirror.js", headers={"if-none-match": f'"other", W/{first.headers["etag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2froutes.py", "%2e%2e/about", "LICENSE"])
def test_only_the_files_of_the_page_are_served(server: Server, name: str) -> None:
    assert server.client.get(f"/page/{name}").status_code == 404


def test_every_file_that_the_page_names_is_there(server: Server) -> None:
    waiting, seen = ["/"], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        found = server.client.get(path, headers=BROWSER)
        assert found.status_code == 200, path
        named = re.findall(r'(?:href|src)\s*=\s*"(/page/[^"]+)"', found.text)
        named += [f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', found.text)]
        waiting += [name for name in named if name not in seen]
    assert {"/page/page.js", "/page/ghost.js", "/page/codemirror.js", "/page/code.css"} <= seen


def test_the_page_can_be_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTCODER_SERVE_NO_PAGE", "1")
    with serve(folder, tmp_path) as server:
        assert server.client.get("/", headers=BROWSER).text == "Ollama is running"
        for path in ("/about", "/report", "/page/page.js"):
            assert server.client.get(path).status_code == 404


def test_the_page_needs_no_key_and_what_it_shows_does(folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    with serve(folder, tmp_path, "--api-key-file", str(keys)) as server:
        for path in ("/", "/page/page.js", "/docs", "/health/ready"):
            assert server.client.get(path, headers=BROWSER).status_code == 200
        for path in ("/about", "/report", "/report/deepseek-toy", "/report/deepseek-toy?pass=x"):
            assert server.client.get(path).status_code == 401
        known = {"authorization": "Bearer secret"}
        (engine,) = server.client.get("/about", headers=known).json()["engines"]
        # A link shows no key; its pass opens this report and nothing else.
        assert "Verdict and gates" in server.client.get(engine["report"]).text
        token = engine["report"].partition("?")[2]
        for path in ("/about", "/report", "/report/other", "/v1/models"):
            assert server.client.get(f"{path}?{token}").status_code == 401


def test_a_certificate_in_three_lines() -> None:
    found = {"verdict": "passed", "quality": "good", "kl_mean": 0.0199, "top1_agreement": 0.917}
    files = {"weights": FileInfo("00" * 32, 11_400_000)}
    manifest = dataclasses.replace(toy_manifest(), parity={**found, "tokens": 2603}, files=files)
    assert certificate_lines(manifest) == [
        "Toy, fp32 weights, fp32 cache, 11.4\N{NO-BREAK SPACE}MB",
        "Passed every limit that it is held to; good.",
        "KL 0.02 nats from the reference, the same top token at 91.7% of 2,603 positions.",
    ]
    assert len(certificate_lines(dataclasses.replace(manifest, parity=None))) == 3
    # What a certificate of another time may say.
    odd = {"verdict": "measured", "kl_mean": float("nan"), "top1_agreement": None}
    assert certificate_lines(dataclasses.replace(manifest, parity=odd))[1:] == [
        "Measured against no limit.",
        "Its numbers are in the report.",
    ]


def test_an_engine_without_a_certificate_has_a_page_that_says_how_it_gets_one(
    tmp_path: Path,
) -> None:
    with serve(write_toy_engine(tmp_path / "engine"), tmp_path) as server:
        found = server.client.get("/report")
        assert found.status_code == 404
        assert found.headers["content-type"].startswith("text/html")
        assert "deepseek-toy has no report" in found.text
        assert "trtcoder verify" in found.text
        (engine,) = server.client.get("/about").json()["engines"]
        assert engine["certificate"][1].startswith("No certificate")
        assert engine["report"] is None


def test_a_report_has_a_style_and_no_script(server: Server) -> None:
    (engine,) = server.client.get("/about").json()["engines"]
    assert engine["report"] == "/report/deepseek-toy"
    found = server.client.get(engine["report"])
    assert found.status_code == 200
    assert found.headers["content-security-policy"].startswith(
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
    )
    assert found.text == server.client.get("/report").text


def test_without_matplotlib_the_report_has_its_tables(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with serve(folder, tmp_path) as server:
        found = server.client.get("/report")
        assert found.status_code == 200
        assert "<svg" not in found.text
        assert "for which matplotlib is needed" in found.text
