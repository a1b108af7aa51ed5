"""The directory of documents as a source: the first load, live reloads, and what it does with mistakes."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from xds_server.sources import files
from xds_server.sources.files import FilesSource

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 10.0

SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: models}}
spec:
  hosts: [{name}]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: 9001}}}}]
"""
WRONG = (
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntri\nmetadata: {name: a, namespace: a}\nspec: {}\n"
)


class World:
    """A source with what it said, which a test can wait for."""

    def __init__(self, directory: Path) -> None:
        self.hosts: list[list[str]] = []
        self.problems: list[list[str]] = []
        self._changed = asyncio.Event()
        self.source = FilesSource(directory, self._take, self._refused, clock=lambda: 7.0)

    def _take(self, event):
        assert event.source == "files"
        self.hosts.append(sorted(service.host for service in event.configuration.services))
        self._changed.set()

    def _refused(self, problems):
        self.problems.append([str(problem) for problem in problems])
        self._changed.set()

    async def until(self, check):
        async with asyncio.timeout(LIMIT):
            while not check():
                self._changed.clear()
                await self._changed.wait()

    async def until_hosts(self, *hosts):
        await self.until(lambda: self.hosts and self.hosts[-1] == sorted(hosts))

    async def until_watching(self):
        """Two changes one after the other: the first may be seen by the look before the watch."""
        directory = self.source.directory
        if not directory.is_dir():
            return
        for text in ("# one", "# two"):
            count = self.source.reloads_ok
            write(directory, "warm.yaml", text)
            await self.until(lambda before=count: self.source.reloads_ok > before)
        count = self.source.reloads_ok
        (directory / "warm.yaml").unlink()
        await self.until(lambda: self.source.reloads_ok > count)
        self.source.reloads_ok = 1


@asynccontextmanager
async def watching(directory):
    world = World(directory)
    await world.source.start()
    task = asyncio.create_task(world.source.run(), name="files")
    try:
        await world.until_watching()
        yield world
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def write(directory: Path, file: str, text: str) -> None:
    """As an editor does: another file, then a rename."""
    (directory / f".{file}.new").write_text(text)
    (directory / f".{file}.new").rename(directory / file)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "documents"
    found.mkdir()
    write(found, "a.yaml", SERVICE.format(name="a"))
    return found


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds between the looks that need no notice, shortened."""
    monkeypatch.setattr(files, "CHECK_EVERY", 0.1)
    return 0.1


async def test_the_first_load(directory):
    world = World(directory)
    await world.source.start()
    assert world.hosts == [["a"]]
    assert world.problems == [[]]
    source = world.source
    assert (source.problems, source.loaded_at, source.reloads_ok, source.reloads_failed) == ((), 7.0, 1, 0)


async def test_a_first_load_that_fails_emits_nothing(directory):
    write(directory, "b.yaml", WRONG)
    world = World(directory)
    await world.source.start()
    assert world.hosts == []
    assert "ServiceEntri" in world.problems[0][0]
    assert world.source.problems
    assert (world.source.loaded_at, world.source.reloads_ok, world.source.reloads_failed) == (None, 0, 1)


async def test_a_directory_that_is_not_there_is_a_problem_until_it_is(tmp_path, often):
    async with watching(tmp_path / "documents") as world:
        assert world.source.problems
        await asyncio.sleep(2 * often)
        assert len(world.problems) == 1
        assert "no directory" in str(world.source.problems[0])
        (tmp_path / "documents").mkdir()
        async with asyncio.timeout(5):
            while "no *.yaml file" not in str(world.source.problems[0]):  # noqa: ASYNC110 - as a status shows it
                await asyncio.sleep(often)
        (tmp_path / "documents").rmdir()
        (tmp_path / "next").mkdir()
        write(tmp_path / "next", "a.yaml", SERVICE.format(name="a"))
        (tmp_path / "next").rename(tmp_path / "documents")
        await world.until_hosts("a")
        assert world.source.problems == ()
        write(tmp_path / "documents", "b.yaml", SERVICE.format(name="b"))
        await world.until_hosts("a", "b")


async def test_files_added_changed_renamed_and_removed_are_followed(directory):
    async with watching(directory) as world:
        write(directory, "b.yaml", SERVICE.format(name="b"))
        await world.until_hosts("a", "b")
        write(directory, "b.yaml", SERVICE.format(name="c"))
        await world.until_hosts("a", "c")
        (directory / "b.yaml").rename(directory / "b.txt")
        await world.until_hosts("a")
        (directory / "b.txt").rename(directory / "b.yml")
        await world.until_hosts("a", "c")
        (directory / "a.yaml").unlink()
        await world.until_hosts("c")


async def test_a_mistake_leaves_the_last_good_state_and_is_said(directory):
    async with watching(directory) as world:
        write(directory, "b.yaml", WRONG)
        await world.until(lambda: world.problems[-1])
        assert "b.yaml" in world.problems[-1][0]
        assert world.hosts == [["a"]]
        assert (world.source.reloads_ok, world.source.reloads_failed) == (1, 1)
        write(directory, "b.yaml", SERVICE.format(name="b"))
        await world.until_hosts("a", "b")
        assert world.problems[-1] == []
        assert world.source.problems == ()


async def test_a_mistake_taken_back_emits_nothing(directory):
    async with watching(directory) as world:
        write(directory, "b.yaml", WRONG)
        await world.until(lambda: world.problems[-1])
        (directory / "b.yaml").unlink()
        await world.until(lambda: not world.problems[-1])
        assert world.hosts == [["a"]]


async def test_what_changes_no_document_loads_nothing(directory):
    async with watching(directory) as world:
        (directory / "notes.txt").write_text("x")
        os.utime(directory / "a.yaml")
        write(directory, "a.yaml", SERVICE.format(name="a"))
        write(directory, "b.yaml", SERVICE.format(name="b"))
        await world.until_hosts("a", "b")
        assert world.source.reloads_ok == 2


async def test_a_comment_is_loaded_but_changes_nothing(directory):
    async with watching(directory) as world:
        write(directory, "a.yaml", "# said\n" + SERVICE.format(name="a"))
        await world.until(lambda: world.source.reloads_ok == 2)
        assert world.hosts == [["a"]]


async def test_a_config_map_is_followed_when_its_link_is_swapped(tmp_path):
    """As kubelet does: files are links into `..data`, which is a link that is replaced by a rename."""
    directory = tmp_path / "documents"
    directory.mkdir()

    def publish(number: int, name: str) -> None:
        version = directory / f"..version_{number}"
        version.mkdir()
        (version / "a.yaml").write_text(SERVICE.format(name=name))
        (directory / "..data_tmp").symlink_to(version.name)
        (directory / "..data_tmp").rename(directory / "..data")

    publish(1, "a")
    (directory / "a.yaml").symlink_to("..data/a.yaml")
    async with watching(directory) as world:
        assert world.hosts == [["a"]]
        publish(2, "b")
        await world.until_hosts("b")


async def test_a_directory_that_is_replaced_is_followed(directory, tmp_path, often):
    async with watching(directory) as world:
        other = tmp_path / "other"
        other.mkdir()
        write(other, "b.yaml", SERVICE.format(name="b"))
        directory.rename(tmp_path / "old")
        other.rename(directory)
        await world.until_hosts("b")
        write(directory, "c.yaml", SERVICE.format(name="c"))
        await world.until_hosts("b", "c")
