"""The chart and the manifests in deploy/ agree with themselves and with the command line.

What helm makes of the templates is looked at by `make k8s`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trtcoder.bundle.manifest import FORMAT
from trtcoder.commands.serve import serve

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "trtcoder"
OPTIONS = {option.removeprefix("--") for each in serve.params for option in each.opts}
MANIFESTS = sorted([*DEPLOY.glob("kserve/*.yaml"), *DEPLOY.glob("kubernetes/*.yaml")])


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def leaves(value: Any, path: str = "") -> list[str]:
    """Return the path of each value that is no object with keys."""
    if isinstance(value, dict) and value:
        return [leaf for key in value for leaf in leaves(value[key], f"{path}.{key}")]
    return [path[1:]]


def test_every_value_is_in_the_schema_and_every_template_takes_one_that_exists() -> None:
    values, schema = (
        load(CHART / "values.yaml"),
        json.loads((CHART / "values.schema.json").read_text()),
    )
    free = ("options", "resources")
    templates = "\n".join(each.read_text() for each in (CHART / "templates").iterdir())
    for leaf in leaves(values):
        place = schema
        for part in leaf.split("."):
            if part in free or (place.get("type") == "object" and "properties" not in place):
                break
            place = place["properties"][part]
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", templates))
    roots = {leaf.split(".")[0] for leaf in leaves(values)} | {"nameOverride", "fullnameOverride"}
    assert {each.split(".")[0] for each in used} == roots
    for each in used - {"nameOverride", "fullnameOverride"}:
        found = values
        for part in each.split("."):
            assert part in found, f"values.yaml has no {each}"
            found = found[part]


def test_the_server_takes_the_options_that_the_chart_gives() -> None:
    deployment = (CHART / "templates" / "deployment.yaml").read_text()
    args = deployment.partition("args:\n            - /engine")[2].partition("ports:")[0]
    given = set(re.findall(r"- --([a-z][a-z-]*)", args))
    assert given
    assert given <= OPTIONS
    assert set(load(CHART / "values.yaml")["options"]) <= OPTIONS
    reserved = re.search(
        r"\$reserved := list (.*?) -}}", (CHART / "templates" / "_helpers.tpl").read_text()
    )
    assert reserved is not None
    assert given <= set(reserved[1].replace('"', "").split())


def test_a_pod_has_time_to_end_its_answers() -> None:
    values = load(CHART / "values.yaml")
    deployment = (CHART / "templates" / "deployment.yaml").read_text()
    assert (
        "terminationGracePeriodSeconds: {{ add .Values.preStopSeconds .Values.drainSeconds 10 }}"
        in deployment
    )
    assert "--drain={{ .Values.drainSeconds }}" in deployment
    assert values["preStopSeconds"] > 0


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_names_its_kind_and_options_that_exist(path: Path) -> None:
    documents = [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each]
    assert documents
    for each in documents:
        assert {"apiVersion", "kind", "metadata", "spec"} <= each.keys()
    if path.name == "serving-runtime.yaml":
        (container,) = documents[0]["spec"]["containers"]
        given = {a.removeprefix("--").split("=")[0] for a in container["args"] if a[:2] == "--"}
        assert given <= OPTIONS
        (model,) = documents[0]["spec"]["supportedModelFormats"]
        assert model["version"] == str(FORMAT)


def test_the_example_for_llm_d_selects_the_charts_pods() -> None:
    (pool, _) = yaml.safe_load_all((DEPLOY / "kubernetes" / "llm-d.yaml").read_text())
    labels = pool["spec"]["selector"]["matchLabels"]
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    for label in labels:
        assert f"{label}: " in helpers
    assert labels["app.kubernetes.io/name"] == load(CHART / "Chart.yaml")["name"]
