"""A watch against an API server that goes through every fault that it is known to have."""

from __future__ import annotations

import asyncio

import kmock
import pytest
from structlog.testing import capture_logs

from tests.kubernetes_mock import mock_cluster, refusal, status, until
from tests.kubernetes_watches import LIMIT, PODS, QUICK, listed, name_and_labels, names, one_status, watching
from xds_server.sources.kubernetes.api import Api
from xds_server.sources.kubernetes.watching import Resource, Scope, Timing, Watch, WatchState

SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")


def pod(name, namespace="models", labels=None, **more):
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels or {}, **more}}


async def test_lists_then_follows(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        await cluster.put(PODS, pod("a"))
        async with watching(cluster) as watch:
            await listed(watch)
            assert watch.seen.changes == [{("models", "a"): ("a", ())}]
            await until(lambda: cluster.streams)
            await cluster.put(PODS, pod("b"))
            await until(lambda: names(watch) == ["a", "b"])
            await cluster.put(PODS, pod("a", labels={"x": "1"}))
            await cluster.remove(PODS, "models", "b")
            await until(lambda: names(watch) == ["a"])
            assert watch.objects() == {("models", "a"): ("a", (("x", "1"),))}
            assert watch.seen.changes[-1][("models", "b")] is None
            assert one_status(watch).state is WatchState.WATCHING
            assert cluster.lists("pods") == 1


async def test_an_object_whose_kept_value_is_equal_is_no_change(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        await cluster.put(PODS, pod("a"))
        async with watching(cluster) as watch:
            await listed(watch)
            await until(lambda: cluster.streams)
            await cluster.put(PODS, pod("a", annotations={"irrelevant": "1"}))
            await cluster.put(PODS, pod("b"))
            await until(lambda: names(watch) == ["a", "b"])
            assert [sorted(change) for change in watch.seen.changes] == [[("models", "a")], [("models", "b")]]


async def test_a_long_list_comes_in_pages_and_is_told_at_once(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        for number in range(600):
            await cluster.put(PODS, pod(f"p{number}"))
        async with watching(cluster) as watch:
            await listed(watch)
            assert len(watch.objects()) == 600
            assert len(watch.seen.changes) == 1
            assert cluster.lists("pods") == 3


async def test_pages_that_expire_are_asked_for_in_one(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        for number in range(300):
            await cluster.put(PODS, pod(f"p{number}"))
        cluster.fault(lambda request: "continue" in request.params, refusal(410, "continue token expired"))
        async with watching(cluster) as watch:
            await listed(watch)
            assert len(watch.objects()) == 300
            assert "limit" not in cluster.requests[2].params


async def test_an_event_longer_than_any_buffer(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster, watching(cluster) as watch:
        await listed(watch)
        await until(lambda: cluster.streams)
        await cluster.put(PODS, pod("big", annotations={"text": "x" * 3_000_000}))
        await until(lambda: names(watch) == ["big"])


async def test_the_servers_end_of_a_watch_goes_on_from_the_version(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster, watching(cluster) as watch:
        await listed(watch)
        await until(lambda: cluster.streams)
        await cluster.put(PODS, pod("a"))
        await until(lambda: names(watch) == ["a"])
        cluster.hang_streams()
        await cluster.put(PODS, pod("b"))  # as if between two streams: from the history
        cluster.end_streams()
        await until(lambda: names(watch) == ["a", "b"])
        assert cluster.lists("pods") == 1
        assert one_status(watch).failures == 0


async def test_bookmarks_move_the_version_on(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster, watching(cluster) as watch:
        await listed(watch)
        await until(lambda: cluster.streams)
        cluster.forget()
        before = one_status(watch).confirmed_at
        cluster.bookmark()
        await until(lambda: one_status(watch).confirmed_at > before)
        cluster.end_streams()
        await until(lambda: cluster.watches("pods") == 2)
        await cluster.put(PODS, pod("a"))
        await until(lambda: names(watch) == ["a"])
        assert cluster.lists("pods") == 1


async def test_gone_within_a_stream_lists_anew_and_tells_the_difference(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        for name in ("a", "b", "c"):
            await cluster.put(PODS, pod(name))
        async with watching(cluster) as watch:
            await listed(watch)
            await until(lambda: cluster.streams)
            cluster.hang_streams()
            await cluster.remove(PODS, "models", "a")
            await cluster.put(PODS, pod("b", labels={"x": "1"}))
            cluster.forget()
            cluster.end_streams()  # the next watch begins with 200, and with 410 in its first event
            await until(lambda: names(watch) == ["b", "c"])
            assert watch.seen.changes[-1] == {("models", "a"): None, ("models", "b"): ("b", (("x", "1"),))}
            assert one_status(watch).failures == 0
            assert cluster.lists("pods") == 2


async def test_gone_as_a_status_lists_anew(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        cluster.fault(lambda request: request.action is kmock.action.WATCH, refusal(410, "gone"))
        async with watching(cluster) as watch:
            await until(lambda: cluster.streams)
            assert cluster.lists("pods") == 2
            assert one_status(watch).failures == 0
            assert one_status(watch).state is WatchState.WATCHING


async def test_a_server_that_always_says_gone_is_not_hammered(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        cluster.fault(lambda request: request.action is kmock.action.WATCH, refusal(410, "gone"), times=10**6)
        slow = Timing(first=0.05, most=0.4, brief=0.02)
        async with watching(cluster, timing=slow):
            begun = asyncio.get_running_loop().time()
            await until(lambda: cluster.lists("pods") == 5)
            assert asyncio.get_running_loop().time() - begun >= (0.05 + 0.1 + 0.2) / 2


async def test_a_silent_stream_is_begun_anew(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        timing = Timing(server=60.0, inactivity=0.1, first=0.01, most=0.05, brief=0.02)
        async with watching(cluster, timing=timing) as watch:
            await listed(watch)
            await until(lambda: cluster.streams)
            cluster.hang_streams()
            await cluster.put(PODS, pod("a"))  # its event goes nowhere
            await until(lambda: names(watch) == ["a"])
            assert cluster.lists("pods") == 1


async def test_a_server_that_does_not_end_its_watch_is_left(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        timing = Timing(server=1.0, late=0.0, inactivity=30.0, first=0.01, most=0.05, brief=0.02)
        async with watching(cluster, timing=timing) as watch:
            await until(lambda: cluster.watches("pods") == 2)
            assert one_status(watch).failures == 0


async def test_a_server_that_never_answers_is_failing(tmp_path):
    hangs = asyncio.Event()

    async def hang(_):
        await hangs.wait()

    async with mock_cluster(tmp_path, PODS) as cluster:
        cluster.fault(lambda request: request.action is kmock.action.WATCH, hang)
        timing = Timing(inactivity=0.1, first=0.01, most=0.05, brief=0.02)
        async with watching(cluster, timing=timing) as watch:
            await until(lambda: one_status(watch).failures >= 1)
            hangs.set()
            await until(lambda: cluster.streams and one_status(watch).state is WatchState.WATCHING)


async def test_a_restart_of_the_server_keeps_the_picture_and_says_since_when(tmp_path):
    now = [1000.0]
    async with mock_cluster(tmp_path, PODS) as cluster:
        await cluster.put(PODS, pod("a"))
        async with watching(cluster, clock=lambda: now[0]) as watch:
            await listed(watch)
            await until(lambda: cluster.streams)
            now[0] = 1010.0
            with capture_logs() as logs:
                await cluster.down()
                await until(lambda: one_status(watch).failures >= 3)
                now[0] = 1030.0
                stale = one_status(watch)
                assert stale.state is WatchState.FAILING
                assert (stale.confirmed_at, stale.failing_since) == (1000.0, 1010.0)
                assert "Connect" in stale.error or "closed" in stale.error
                assert names(watch) == ["a"]
                assert len(watch.seen.changes) == 1
                cluster.forget()
                await cluster.put(PODS, pod("b"))
                await cluster.up()
                await until(lambda: names(watch) == ["a", "b"])
            assert one_status(watch).state is WatchState.WATCHING
            assert one_status(watch).failing_since is None
            (recovered,) = [log for log in logs if log["event"] == "watching again"]
            assert recovered["after"] == 20.0
            assert len([log for log in logs if log["event"] == "watch fails"]) <= 3


async def test_too_many_requests_waits_as_long_as_it_is_told(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        busy = refusal(429, "too many requests", headers={"Retry-After": "0.3"})
        cluster.fault(lambda request: request.action is kmock.action.LIST, busy)
        begun = asyncio.get_running_loop().time()
        async with watching(cluster) as watch:
            await listed(watch)
            assert asyncio.get_running_loop().time() - begun >= 0.3
            assert cluster.lists("pods") == 2


async def test_an_error_within_a_stream_goes_on_from_the_version(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster, watching(cluster) as watch:
        await listed(watch)
        await until(lambda: cluster.streams)
        cluster.send("ERROR", status(500, "etcd leader changed"))
        await until(lambda: one_status(watch).failures >= 1)
        await until(lambda: cluster.watches("pods") >= 2)
        await cluster.put(PODS, pod("a"))
        await until(lambda: names(watch) == ["a"])
        assert cluster.lists("pods") == 1


async def test_an_expired_token_is_read_again(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster, watching(cluster) as watch:
        await listed(watch)
        await until(lambda: cluster.streams)
        cluster.token = "second"
        cluster.login()  # writes the file anew
        cluster.end_streams()
        await until(lambda: cluster.watches("pods") == 3)
        await cluster.put(PODS, pod("a"))
        await until(lambda: names(watch) == ["a"])
        assert one_status(watch).failures == 0
        assert cluster.lists("pods") == 1


async def test_a_token_that_stays_refused_is_said_and_tried_again(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster, watching(cluster) as watch:
        await listed(watch)
        await until(lambda: cluster.streams)
        cluster.token = "second"
        cluster.end_streams()
        await until(lambda: "does not accept" in one_status(watch).error)
        assert "kubeconfig" in one_status(watch).error
        cluster.login()
        await until(lambda: one_status(watch).state is WatchState.WATCHING)


@pytest.mark.parametrize(
    ("scope", "where"), [(Scope(("x",)), "in namespace x"), (Scope(), "in all namespaces")]
)
async def test_a_missing_permission_is_named(tmp_path, scope, where):
    async with mock_cluster(tmp_path, SLICES) as cluster:
        forbidden = refusal(403, "endpointslices.discovery.k8s.io is forbidden: User ...")
        cluster.fault(lambda request: request.action is kmock.action.LIST, forbidden, times=10**6)
        async with watching(cluster, SLICES, scope) as watch:
            await until(lambda: one_status(watch).failures >= 3)
            found = one_status(watch)
            assert found.missing_permission == f"list endpointslices.discovery.k8s.io {where}"
            assert found.error == f"missing permission: {found.missing_permission}"
            assert not found.listed
            cluster.faults.clear()
            await listed(watch)
            assert one_status(watch).missing_permission == ""


async def test_a_missing_permission_to_watch_is_another_one(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        cluster.fault(lambda request: request.action is kmock.action.WATCH, refusal(403), times=10**6)
        async with watching(cluster, scope=Scope(("x",))) as watch:
            await until(lambda: one_status(watch).failures >= 2)
            assert one_status(watch).missing_permission == "watch pods in namespace x"
            assert one_status(watch).listed


@pytest.mark.parametrize("optional", [False, True])
async def test_a_crd_that_appears_later_is_picked_up(tmp_path, optional):
    things = Resource("example.org", "v1", "things")
    async with mock_cluster(tmp_path) as cluster, watching(cluster, things, optional=optional) as watch:
        await until(lambda: one_status(watch).state is WatchState.ABSENT)
        assert one_status(watch).error == (
            "the API server does not serve things.example.org v1: is its CRD installed?"
        )
        assert one_status(watch).listed is optional
        await cluster.put(things, pod("a"))
        cluster.serve(things)
        await until(lambda: names(watch) == ["a"])
        assert one_status(watch).state is WatchState.WATCHING


async def test_a_crd_that_goes_leaves_the_last_good_picture(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        await cluster.put(PODS, pod("a"))
        async with watching(cluster) as watch:
            await listed(watch)
            await until(lambda: cluster.streams)
            cluster.served.clear()
            cluster.end_streams()
            await until(lambda: one_status(watch).state is WatchState.ABSENT)
            assert names(watch) == ["a"]


async def test_each_namespace_is_watched_by_itself(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        for namespace in ("x", "y", "z"):
            await cluster.put(PODS, pod("a", namespace))
        cluster.fault(lambda request: request.namespace == "y", refusal(403), times=2)
        async with watching(cluster, scope=Scope(("y", "x", "x"))) as watch:
            await until(lambda: ("x", "a") in watch.objects())
            assert ("z", "a") not in watch.objects()
            await listed(watch)
            assert sorted(watch.objects()) == [("x", "a"), ("y", "a")]
            assert [s.namespace for s in watch.status()] == ["x", "y"]


async def test_a_selector_goes_with_every_request(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster:
        await cluster.put(PODS, pod("a", labels={"app": "triton"}))
        await cluster.put(PODS, pod("b", labels={"app": "other"}))
        async with watching(cluster, scope=Scope(selector="app=triton")) as watch:
            await listed(watch)
            await until(lambda: cluster.streams)
            await cluster.put(PODS, pod("c", labels={"app": "other"}))
            await cluster.put(PODS, pod("d", labels={"app": "triton"}))
            await until(lambda: names(watch) == ["a", "d"])


async def test_nonsense_in_a_stream_is_a_failure_and_no_end(tmp_path):
    async with mock_cluster(tmp_path, PODS) as cluster, watching(cluster) as watch:
        await listed(watch)
        for nonsense in ({}, "text", {"kind": "Pod"}):
            before = one_status(watch).failures
            await until(lambda: cluster.streams)
            cluster.send("ADDED", nonsense)
            await until(lambda before=before: one_status(watch).failures > before)
        await cluster.put(PODS, pod("a"))
        await until(lambda: names(watch) == ["a"])


async def test_what_the_owner_raises_ends_the_watch(tmp_path):
    def refuse(_):
        raise ZeroDivisionError

    async with mock_cluster(tmp_path, PODS) as cluster:
        await cluster.put(PODS, pod("a"))
        api = Api(cluster.login())
        await api.open()
        watch = Watch(api, PODS, Scope(), keep=name_and_labels, on_change=refuse, timing=QUICK)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.timeout(LIMIT):
                await watch.run()
        assert isinstance(raised.value.exceptions[0], ZeroDivisionError)
        await api.close()
