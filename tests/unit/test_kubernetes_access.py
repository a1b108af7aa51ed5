"""Where the API server is and who we are to it: a pod's service account, a kubeconfig, and what is wrong."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

import aiohttp
import pytest
import yaml

from tests.certificates import Authority
from tests.kubernetes_mock import mock_cluster
from xds_server.sources.kubernetes import access as access_module
from xds_server.sources.kubernetes.access import AccessError, Login, find_access
from xds_server.sources.kubernetes.api import TOKEN_AGE, Api, Request
from xds_server.sources.kubernetes.watching import Resource

PODS = Resource("", "v1", "pods")


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """A pod's service account."""
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "token").write_text("secret-1")
    (account / "ca.crt").write_bytes(Authority(account, "cluster").ca.read_bytes())
    monkeypatch.setattr(access_module, "SERVICE_ACCOUNT", account)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return account


def kubeconfig(file, **more):
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "http://one.example:8001"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "first", "context": {"cluster": "c", "user": "u"}},
            {"name": "second", "context": {"cluster": "c", "user": "nobody"}},
        ],
        "current-context": "first",
    }
    file.write_text(yaml.safe_dump({**document, **more}))
    return file


async def test_a_kubeconfig_and_its_contexts(tmp_path):
    file = kubeconfig(tmp_path / "config")
    first = await find_access(Login(file))
    assert (first.url, first.authorization) == ("http://one.example:8001", "Bearer t")
    second = await find_access(Login(file, "second"))
    assert second.authorization is None
    assert "secret" not in repr(first)


async def test_the_environments_kubeconfig(tmp_path, monkeypatch):
    file = kubeconfig(tmp_path / "config")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/absent:{file}")
    assert (await find_access(Login())).url == "http://one.example:8001"


async def test_a_pods_service_account(pod):
    login = Login()
    assert login.in_cluster()
    assert str(login) == "the pod's service account"
    found = await find_access(login)
    assert (found.url, found.authorization) == ("https://10.0.0.1:443", "bearer secret-1")
    assert found.tls is not None
    (pod / "token").write_text("secret-2")
    renewed = await find_access(login)
    assert renewed.authorization == "bearer secret-2"
    assert renewed.trust == found.trust
    (pod / "ca.crt").write_bytes(Authority(pod, "another").ca.read_bytes())
    assert (await find_access(login)).trust != found.trust


async def test_a_file_that_is_asked_for_goes_before_the_service_account(pod, tmp_path):
    login = Login(kubeconfig(tmp_path / "config"))
    assert not login.in_cluster()
    assert (await find_access(login)).url == "http://one.example:8001"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no kubeconfig file at"),
        ("a: [", "config: "),
        ("{}", "config: "),
        ("- 1", "config: "),
    ],
)
async def test_what_cannot_be_read_is_said_with_its_file(tmp_path, content, said):
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    with pytest.raises(AccessError, match=said):
        await find_access(Login(file))


async def test_a_context_that_is_not_there(tmp_path):
    with pytest.raises(AccessError, match=r"config, context third: .*third"):
        await find_access(Login(kubeconfig(tmp_path / "config"), "third"))


async def test_a_certificate_that_is_none(tmp_path):
    nonsense = base64.b64encode(b"nonsense").decode()
    cluster = {"server": "https://one.example", "certificate-authority-data": nonsense}
    file = kubeconfig(tmp_path / "config", clusters=[{"name": "c", "cluster": cluster}])
    with pytest.raises(AccessError, match="config: "):
        await find_access(Login(file))


async def test_a_pods_token_is_read_again_in_time(tmp_path):
    """The kubelet renews it; nobody waits for a 401."""
    now = [0.0]
    async with mock_cluster(tmp_path, PODS) as cluster:

        class InPod(Login):
            def in_cluster(self):
                return True

        async def find(_):
            return await find_access(cluster.login())

        api = Api(InPod(), find=find, clock=lambda: now[0])
        await api.open()
        await api.json(Request(path=PODS.path()))
        cluster.token = "second"
        now[0] = TOKEN_AGE + 1
        await api.json(Request(path=PODS.path()))
        assert [r.headers["Authorization"] for r in cluster.requests] == ["Bearer first", "Bearer second"]
        await api.close()


async def test_a_request_while_the_former_connections_close_goes_out_on_new_ones(tmp_path, monkeypatch):
    """A new CA means new connections. A closed session raises what no watch expects: the server would end."""
    trust = [b"first"]
    async with mock_cluster(tmp_path, PODS) as cluster:

        class InPod(Login):
            def in_cluster(self):
                return True

        async def find(_):
            return replace(await find_access(cluster.login()), trust=trust[0])

        now, closing, close = [0.0], asyncio.Event(), asyncio.Event()
        api = Api(InPod(), find=find, clock=lambda: now[0])
        await api.open()
        end = aiohttp.ClientSession.close

        async def slowly(session):
            await end(session)
            closing.set()
            await close.wait()

        monkeypatch.setattr(aiohttp.ClientSession, "close", slowly)
        trust[0], now[0] = b"second", TOKEN_AGE + 1
        first = asyncio.create_task(api.json(Request(path=PODS.path())))
        await closing.wait()
        try:
            assert (await api.json(Request(path=PODS.path())))["items"] == []
        finally:
            close.set()
            await first
            await api.close()
