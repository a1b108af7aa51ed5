"""A real kube-apiserver with its etcd, from the binaries in $KUBEBUILDER_ASSETS, as envtest has them.

No controllers and no kubelet: pods stay as they are written, and slices are ours to write.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.integration.mlserver import free_ports
from xds_server.sources.kubernetes.access import Login
from xds_server.sources.kubernetes.api import Api, ApiError, ApiUnreachableError, Request

ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
LIMIT = 60.0
TOKEN = "tester"

needs_assets = pytest.mark.skipif(
    not ASSETS,
    reason="needs kube-apiserver and etcd: set KUBEBUILDER_ASSETS to the directory of envtest's binaries",
)


class RealCluster:
    """Enter it with `async with`. Like MockCluster, as far as a real one can be told what to do."""

    def __init__(self, directory):
        self.directory = directory
        self._ports = free_ports(3)
        self._processes = {}
        self._api = None

    async def __aenter__(self):
        self._write_files()
        self._start("etcd", *self._etcd())
        await self.up()
        self._api = Api(self.login())
        await self._api.open()
        await self._ready()
        return self

    async def __aexit__(self, *_):
        await self._api.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            await asyncio.to_thread(process.wait, LIMIT)

    @property
    def url(self):
        return f"https://127.0.0.1:{self._ports[0]}"

    def login(self):
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        document = {
            "clusters": [{"name": "real", "cluster": cluster}],
            "users": [{"name": "tester", "user": {"token": TOKEN}}],
            "contexts": [{"name": "real", "context": {"cluster": "real", "user": "tester"}}],
            "current-context": "real",
        }
        file = self.directory / "kubeconfig"
        file.write_text(yaml.safe_dump(document))
        return Login(kubeconfig=file)

    async def up(self):
        """Start the API server, on the same port as before."""
        self._start("kube-apiserver", *self._apiserver())
        if self._api is not None:
            await self._ready()

    async def down(self):
        """End the API server at once; etcd stays."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        await asyncio.to_thread(process.wait, LIMIT)

    async def put(self, resource, item):
        """Create or replace an object, and its namespace before it."""
        metadata = item["metadata"]
        if namespace := metadata.get("namespace", ""):
            await self._create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        path = resource.path(namespace)
        if await self._create(path, item):
            return
        present = await self._api.json(Request(path=f"{path}/{metadata['name']}"))
        version = {"resourceVersion": present["metadata"]["resourceVersion"]}
        if resource.plural == "pods":  # a pod's spec is not to be changed
            item = {**item, "spec": present["spec"]}
        item = {**item, "metadata": {**metadata, **version}}
        await self._api.json(Request(path=f"{path}/{metadata['name']}", method="PUT", body=item))

    async def remove(self, resource, namespace, name):
        """Delete an object at once."""
        path = f"{resource.path(namespace)}/{name}"
        await self._api.json(Request(path=path, method="DELETE", body={"gracePeriodSeconds": 0}))

    async def install(self, resource, kind):
        """Install a CRD that takes anything."""
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {
            "name": resource.version,
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": schema},
        }
        item = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": str(resource)},
            "spec": {
                "group": resource.group,
                "scope": "Namespaced",
                "names": {"plural": resource.plural, "kind": kind},
                "versions": [version],
            },
        }
        await self._create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", item)

        async def served():
            try:
                await self._api.json(Request(path=resource.path()))
            except ApiError:
                return False
            return True

        await _until(served, f"{resource} to be served")

    async def _create(self, path, item):
        """Whether it was created: False where it is there already."""
        try:
            await self._api.json(Request(path=path, method="POST", body=item))
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def _ready(self):
        async def check():
            try:
                async with self._api.send(Request(path="/readyz")):
                    return True
            except (ApiError, ApiUnreachableError):
                return False

        await _until(check, "the API server to be ready")

    def _write_files(self):
        (self.directory / "tokens.csv").write_text(f'{TOKEN},tester,tester,"system:masters"\n')
        key = self.directory / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)

    def _etcd(self):
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports[1:])
        yield from ("--data-dir", self.directory / "etcd")
        yield from ("--listen-client-urls", client, "--advertise-client-urls", client)
        yield from ("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer)
        yield from ("--initial-cluster", f"default={peer}", "--unsafe-no-fsync")

    def _apiserver(self):
        key = self.directory / "accounts.key"
        yield from ("--etcd-servers", f"http://127.0.0.1:{self._ports[1]}")
        yield from ("--bind-address", "127.0.0.1", "--secure-port", self._ports[0])
        yield from ("--cert-dir", self.directory / "certificates")
        yield from ("--token-auth-file", self.directory / "tokens.csv", "--authorization-mode", "RBAC")
        yield from ("--service-account-issuer", "https://localhost", "--service-account-key-file", key)
        yield from ("--service-account-signing-key-file", key, "--service-cluster-ip-range", "10.0.0.0/24")
        yield from ("--disable-admission-plugins", "ServiceAccount", "--allow-privileged")

    def _start(self, name, *arguments):
        with (self.directory / f"{name}.log").open("ab") as log:
            command = [str(Path(ASSETS) / name), *map(str, arguments)]
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)


async def _until(check, what):
    deadline = time.monotonic() + LIMIT
    while not await check():
        assert time.monotonic() < deadline, f"not within {LIMIT:g} s: {what}"
        await asyncio.sleep(0.05)
