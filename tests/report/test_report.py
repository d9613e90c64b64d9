from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.certificates import certificate, old_certificate, write_certificate, write_engine
from trtcoder.cli import main

NETWORK = re.compile(r"https?:|//|@import|\burl\((?!#)", re.IGNORECASE)


class Page(HTMLParser):
    """What the tests ask a page: its text, ids, links, and that its elements are closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a handler"
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href"):
                self.references.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def section(self, name: str) -> str:
        found = re.search(rf'<section id="{name}".*?</section>', self.source, re.DOTALL)
        assert found is not None, name
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found[0])).split())


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def page_of(tmp_path: Path, data: dict[str, Any]) -> Page:
    source, out = write_certificate(tmp_path / "toy.parity.json", data), tmp_path / "page.html"
    result = run("report", source, "--out", out, "--force")
    assert result.exit_code == 0, result.output
    return Page(out.read_text(encoding="utf-8"))


def test_an_engines_page_has_every_section_and_its_numbers(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "lite-int4", certificate())
    result = run("report", engine, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    for section, shown in {
        "verdict": [
            "It is poor: it loses 4.1%",
            "router disagreements 37",
            "0.0200 ✓ pass",
            "✗ fail",
            "stated",
        ],
        "compared": ["toy, BF16", "ab" * 32, "held.jsonl, 1,000 tokens", "torch 2.13.0", "fp32"],
        "text": ["7.500 7.650 +2.00%", "0.6100 0.6200", "far 200 50.000 52.000 +4.00% – – –"],
        "logits": ["1,000 positions", "93.40%", "KL of a position, nats", "0.0456"],
        "layers": ["largest", "lowest 91.2%"],
        "size": ["experts_down 8 16,384 9,216 4.500 int4 b32 gptq 88%, rtn 12%", "all 12"],
        "tensors": ["layers.1/moe/experts/down[3] experts_down int4 b32 rtn 2,048 10.97 0.0700"],
        "fallbacks": ["1 of 12 tensors", "reached by 5 calibration tokens, 32 needed 1"],
        "calibration": ["gptq", "4,321 tokens in 12 sequences", "7 of 8 experts", "1 3 5"],
        "plan": ["0.0150 nats", "● int8 b32 4,352", "−2.0 kB +0.00890", "1 0.0150 0.0117 0.0123"],
        "files": ["model.onnx 15", "parity.json"],
    }.items():
        for value in shown:
            assert value in page.section(section), f"{section}: {page.section(section)}"
    assert "lite-int4: failed, poor" in page.text
    assert page.tags.count("svg") == 7


def test_the_page_needs_no_network_and_no_scripts(tmp_path: Path) -> None:
    page = page_of(tmp_path, certificate())
    assert "script" not in page.tags
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert all(reference.startswith("#") for reference in page.references)
    assert NETWORK.search(page.source) is None


def test_ids_are_unique_and_every_link_has_its_end(tmp_path: Path) -> None:
    page = page_of(tmp_path, certificate())
    assert len(page.ids) == len(set(page.ids))
    inner = re.findall(r"url\(#([^)]*)\)", page.source)
    assert page.references
    assert inner
    assert {reference[1:] for reference in page.references} | set(inner) <= set(page.ids)


def test_the_page_prints_and_follows_the_screens_colours(tmp_path: Path) -> None:
    page = page_of(tmp_path, certificate())
    for rule in (
        "@media print",
        "@page",
        "size: A4",
        "break-inside: avoid",
        "prefers-color-scheme",
    ):
        assert rule in page.source
    drawings = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    # No colour is fixed: each is a variable of the page, which print and dark mode set.
    assert re.findall(r"(?:fill|stroke): *#", drawings) == []
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", page.source))
    assert used <= set(re.findall(r"--([a-z0-9-]+):", page.source))


def test_the_same_certificate_gives_the_same_page(tmp_path: Path) -> None:
    source = write_certificate(tmp_path / "toy.json", certificate())
    pages = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.html"
        script = "from trtcoder.cli import main; main()"
        subprocess.run(
            [sys.executable, "-c", script, "report", str(source), "--out", str(out)],
            check=True, capture_output=True, env={"PYTHONPATH": ":".join(sys.path),
            "PYTHONHASHSEED": seed, "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "mpl")},
        )  # fmt: skip
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def test_an_older_certificate_says_what_it_lacks(tmp_path: Path) -> None:
    page = page_of(tmp_path, old_certificate())
    assert "Not calibrated" in page.section("calibration")
    assert "Not planned" in page.section("plan")
    assert "no records of tensors" in page.section("size")
    assert "no histogram" in page.section("logits")
    assert 'id="tensors"' not in page.source
    assert 'id="files"' not in page.source


def test_a_model_without_experts_has_no_coverage(tmp_path: Path) -> None:
    data = certificate()
    data["calibration"]["experts"] = {"minimum": 32, "tokens": {}, "short": []}
    for layer in data["layers"]:
        layer |= dict.fromkeys(key for key in layer if key.startswith("router"))
    page = page_of(tmp_path, data)
    assert "No layer has experts" in page.section("calibration")
    assert "No layer has a router" in page.section("layers")


def test_values_that_are_not_finite_are_shown_as_such(tmp_path: Path) -> None:
    data = certificate()
    for key in ("kl_mean", "kl_p99", "kl_max"):
        data["logits"][key] = None  # as the writer has NaN
    for layer in data["layers"]:
        layer["hidden_mean"] = layer["hidden_max"] = None
    data["gates"][0]["measured"] = None
    for tensor in data["tensors"]:
        tensor["max_error"] = None
    data["plan"]["rounds"][0]["measured_kl"] = None
    page = page_of(tmp_path, data)
    assert "KL mean not finite" in page.section("verdict")
    assert "not finite" in page.section("plan")


def test_an_exact_engine_has_no_worst_tensors(tmp_path: Path) -> None:
    data = certificate()
    for key in ("kl_mean", "kl_p99", "kl_max"):
        data["logits"][key] = 0.0
    for tensor in data["tensors"]:
        tensor |= {"snr_db": None, "fallback": None}
    page = page_of(tmp_path, data)
    assert "Every tensor is stored exactly" in page.section("tensors")
    assert "None: every tensor" in page.section("fallbacks")


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    data = certificate()
    name = 'layers.0/<script>alert("x")</script> $\\frac{1}{$'
    data["tensors"][2] |= {"name": name, "class": name, "snr_db": 1.0}
    data["plan"]["classes"][0]["class"] = name
    page = page_of(tmp_path, data)
    assert "script" not in page.tags
    assert name in page.section("tensors")


def test_many_tensors_and_fallbacks_are_summed_up(tmp_path: Path) -> None:
    data = certificate()
    expert = data["tensors"][-1]
    data["tensors"] += [
        {
            **expert,
            "name": f"layers.2/moe/experts/up[{index}]",
            "fallback": f"for reason {index % 50}",
        }
        for index in range(5000)
    ]
    page = page_of(tmp_path, data)
    assert "and 92 more" in page.section("fallbacks")
    assert "11 more reasons are in the certificate" in page.section("fallbacks")
    assert len(page.source) < 400_000


def test_a_page_is_not_overwritten_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = write_engine(tmp_path / "engine", certificate())
    monkeypatch.chdir(tmp_path)
    assert run("report", engine).exit_code == 0
    page = tmp_path / "engine.report.html"
    page.write_text("mine")
    refused = run("report", engine)
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert page.read_text() == "mine"
    assert run("report", engine, "--force").exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "engine.report.html"]


@pytest.mark.parametrize("out", ["missing/page.html", "file/page.html", "folder", "n" * 300])
def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    source = write_certificate(tmp_path / "toy.json", certificate())
    result = run("report", source, "--out", tmp_path / out, "--force")
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .*(is a folder|cannot be written).*--out\n", result.output)


def _set(*path: Any) -> Any:
    *keys, last, value = path

    def change(data: Any) -> None:
        for key in keys:
            data = data[key]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", 3), "format 3, this trtcoder reads 1 and 2"),
        (_set("format", True), "format: expected an integer"),
        (lambda data: data.pop("format"), "not a certificate"),
        (lambda data: data.pop("gates"), "missing gates"),
        (_set("logits", "kl_mean", "small"), "logits.kl_mean: expected a number, found 'small'"),
        (_set("logits", "positions", 1.5), "logits.positions: expected an integer"),
        (_set("logits", "positions", 10**30), "logits.positions: too large"),
        (_set("layers", 1, "layer", 0), "layers: not in their order"),
        (_set("texts", {}), "texts: expected an array"),
        (_set("logits", "kl_histogram", "counts", [1]), "6 edges around 1 counts"),
        (_set("logits", "kl_histogram", "edges", [3, 2, 1, 0, -1, -2]), "not ascending"),
        (_set("tensors", 0, "bytes", None), "tensors[0].bytes: expected an integer"),
        (_set("tensors", 0, "bytes", -1), "negative size"),
        (_set("tensors", 0, "name", "\ud800"), "tensors[0].name: not Unicode text"),
        (_set("calibration", []), "calibration: expected an object"),
        (_set("calibration", "experts", "tokens", {"one": [1]}), "expected integers as keys"),
        (_set("calibration", "experts", "short", [[1, 2]]), "short[0]: expected an array of 3"),
        (_set("plan", "goal", {}), "plan.goal: expected either max_kl or target_bytes"),
        (_set("plan", "classes", 0, "chosen", "int2"), "int2 is not among its options"),
    ],
)
def test_a_malformed_certificate_is_one_line(tmp_path: Path, change: Any, message: str) -> None:
    data = certificate()
    change(data)
    source = write_certificate(tmp_path / "toy.json", data)
    result = run("report", source, "--out", tmp_path / "page.html")
    assert result.exit_code == 1
    assert message in result.output
    assert str(source) in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "{", '{"format": 1e999}', "\xff"])
def test_what_is_no_certificate_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "toy.json").write_bytes(text.encode("latin-1"))
    result = run("report", tmp_path / "toy.json", "--out", tmp_path / "page.html")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_an_engine_without_its_certificate_is_refused(tmp_path: Path) -> None:
    bare = run("report", write_engine(tmp_path / "bare", None))
    assert bare.exit_code == 1
    assert "has no certificate" in bare.output
    assert "trtcoder verify" in bare.output
    for name in ("nothing", "n" * 300):
        missing = run("report", tmp_path / name)
        assert missing.exit_code == 1
        assert missing.output.startswith("Error: ")


def test_a_certificate_that_was_changed_is_refused(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine", certificate())
    path = engine / "parity.json"
    path.write_text(path.read_text().replace("0.0123", "0.0001"))
    result = run("report", engine, "--out", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "was changed since the engine was built" in result.output


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_certificate(tmp_path / "toy.json", certificate())
    for package in ("matplotlib", "jinja2"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            result = run("report", source, "--out", tmp_path / "page.html")
        assert result.exit_code == 1
        assert f"{package} is not installed; pip install 'trtcoder[report]'" in result.output


def test_the_tables_need_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_certificate(tmp_path / "toy.json", certificate())
    whole = run("report", source, "--out", "-")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        result = run("report", source, "--out", "-", "--no-drawings")
    assert result.exit_code == 0
    assert "<svg" in whole.output
    assert "<svg" not in result.output
    assert "pip install &#39;trtcoder[report]&#39;" in result.output.replace("'", "&#39;")
    assert set(re.findall(r"<td>[^<]+", result.output)) == set(
        re.findall(r"<td>[^<]+", whole.output)
    )
    # Nothing is said to be missing that is only not drawn.
    assert result.output.count('class="absent"') <= whole.output.count('class="absent"')
    for name in re.findall(r'<a href="#(\w+)"', result.output):
        assert f'id="{name}"' in result.output


def test_neither_command_imports_what_builds_or_runs(tmp_path: Path) -> None:
    source = write_certificate(tmp_path / "toy.json", certificate())
    script = (
        "import sys\n"
        "from trtcoder.cli import main\n"
        f"for arguments in (['report', {str(source)!r}, '--out', {str(tmp_path / 'p')!r}],\n"
        f"                  ['diff', {str(source)!r}, {str(source)!r}]):\n"
        "    main(arguments, standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnx_ir', 'onnxruntime'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_reader_takes_what_the_writer_writes() -> None:
    from trtcoder.bundle.certificate import Certificate

    found = Certificate.from_json(json.dumps(certificate()))
    assert found.logits.kl_mean == 0.0123
    assert found.tensors[-1].kind == "experts_down"
    assert found.calibration is not None
    assert found.calibration.experts is not None
    assert found.calibration.experts.tokens[1] == (100, 40, 300, 3)
