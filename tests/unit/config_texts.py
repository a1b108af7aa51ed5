"""Documents as text, and what loading them gives, for the tests of the documents."""

from pathlib import Path

from xds_server.config.loader import load_directory

SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: models, namespace: ml}
spec:
  hosts: [models]
  resolution: STATIC
  ports: [{number: 8033, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1, ports: {http: 9001}}, {address: 10.0.0.2}]
"""


def load(tmp_path: Path, *documents: str):
    (tmp_path / "documents.yaml").write_text("---\n".join(documents))
    loaded = load_directory(tmp_path)
    assert not loaded.problems, [str(problem) for problem in loaded.problems]
    return loaded.configuration


def errors(tmp_path: Path, *documents: str) -> list[str]:
    (tmp_path / "documents.yaml").write_text("---\n".join(documents))
    return [str(problem) for problem in load_directory(tmp_path).problems]


def document(kind: str, spec: str, version: str = "networking.istio.io/v1", name: str = "models") -> str:
    indented = "".join(f"  {line}\n" for line in spec.strip("\n").splitlines())
    return (
        f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: ml}}\nspec:\n{indented}"
    )


def pool(spec: str, name: str = "models") -> str:
    return document("ModelPool", spec, "xds-server.dev/v1alpha1", name)


def route(http: str, rest: str = 'hosts: ["*"]') -> str:
    indented = "".join(f"    {line}\n" for line in http.strip("\n").splitlines())
    return document("VirtualService", f"{rest}\nhttp:\n  -\n{indented}")
