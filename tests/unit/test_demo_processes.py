from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xds_server.demo.processes import DemoError, Processes, busy, free_ports

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def alive(pid):
    """Whether a process runs: neither gone nor only waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_leaving_ends_every_child(tmp_path):
    async with Processes(tmp_path) as processes:
        children = [await processes.start(f"sleeper-{number}", SLEEPER) for number in range(2)]
        processes.check()
    assert all(child.process.returncode == -signal.SIGTERM for child in children)


async def test_leaving_by_an_error_ends_every_child_too(tmp_path):
    children = []

    async def fail():
        async with Processes(tmp_path) as processes:
            children.append(await processes.start("sleeper", SLEEPER))
            raise RuntimeError("the demo failed")

    with pytest.raises(RuntimeError, match="the demo failed"):
        await fail()
    (child,) = children
    assert child.process.returncode is not None


async def test_a_child_that_ended_by_itself_is_reported_with_the_end_of_its_log(tmp_path):
    async with Processes(tmp_path) as processes:
        child = await processes.start("broken", [sys.executable, "-c", "raise SystemExit('no such port')"])
        await child.process.wait()
        with pytest.raises(
            DemoError, match=r"(?s)broken ended with exit code 1; its log .*broken.log ends:.*no such"
        ):
            processes.check()


async def test_finished_forgets_a_child_that_did_its_work(tmp_path):
    async with Processes(tmp_path) as processes:
        await processes.finished(await processes.start("quick", [sys.executable, "-c", "print('done')"]))
        processes.check()
        failing = await processes.start("failing", [sys.executable, "-c", "import sys; sys.exit(3)"])
        with pytest.raises(DemoError, match="failing ended with exit code 3"):
            await processes.finished(failing)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_do_not_outlive_a_demo_that_dies(tmp_path, how):
    """Also when it is killed outright, so that nothing of it can clean up."""
    program = f"""
import asyncio, pathlib, sys
from xds_server.demo.processes import Processes
async def main():
    async with Processes(pathlib.Path({str(tmp_path)!r})) as processes:
        child = await processes.start("sleeper", {SLEEPER!r})
        print(child.process.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as demo:
        child = int(demo.stdout.readline())
        assert alive(child)
        os.kill(demo.pid, how)
        demo.wait(10)
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(child)


def test_a_port_that_something_listens_on_is_busy():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert busy([port]) == [port]
    assert busy([port]) == []


def test_free_ports_are_different():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert busy(ports) == []
