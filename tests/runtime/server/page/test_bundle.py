"""The committed bundle is what its sources make."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[4] / "runtime" / "server" / "page"
BUNDLE, STATIC = PAGE / "bundle", PAGE / "static"
MADE = ("codemirror.js", "codemirror.licences.txt")


def test_the_bundle_names_the_sources_that_it_was_made_from() -> None:
    digest = hashlib.sha256()
    for name in ("entry.js", "package-lock.json"):
        digest.update((BUNDLE / name).read_bytes())
    first_line = (STATIC / MADE[0]).read_text("utf-8").partition("\n")[0]
    assert first_line.endswith(digest.hexdigest()), "the bundle is stale: make page"


def test_every_package_is_pinned_and_its_licence_is_carried() -> None:
    asked = json.loads((BUNDLE / "package.json").read_text("utf-8"))
    lock = json.loads((BUNDLE / "package-lock.json").read_text("utf-8"))["packages"]
    for name, version in {**asked["dependencies"], **asked["devDependencies"]}.items():
        assert lock[f"node_modules/{name}"]["version"] == version
    assert all(re.match("sha512-", each["integrity"]) for path, each in lock.items() if path)
    licences = (STATIC / MADE[1]).read_text("utf-8")
    for name, version in asked["dependencies"].items():
        assert f"{name} {version} (MIT)" in licences
    assert licences.count("Permission is hereby granted") == licences.count("(MIT)")


@pytest.mark.skipif(not shutil.which("npm"), reason="needs node and npm")
def test_the_sources_make_the_same_bundle_again(tmp_path: Path) -> None:
    work = tmp_path / "bundle"
    shutil.copytree(BUNDLE, work, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
    done = subprocess.run(install, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install what is bundled: {done.stderr.strip()[-200:]}")
    subprocess.run(["node", "build.js", str(tmp_path)], cwd=work, check=True, capture_output=True)
    for name in MADE:
        assert (tmp_path / name).read_bytes() == (STATIC / name).read_bytes(), "make page"
