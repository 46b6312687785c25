"""Problem folders to events."""

import asyncio
import shutil

import pytest
from grading import CREATE, FIX, write_folder

from ridges.contracts import events as ev
from ridges.evaluator.errors import ProblemBroken, ProblemUnknown
from ridges.evaluator.problems.tree import unpack


async def digests(world, problem_id):
    return [event.problem_digest for event in await world.events(f"problem-{problem_id}", ev.ProblemPublished)]


async def test_each_problem_is_published_once(world):
    await world.publisher.scan()
    (published,) = await world.events("problem-tiny-fix", ev.ProblemPublished)
    assert (published.kind, published.title) == ("fix", "Median of an even count")
    assert (published.agent_timeout_s, published.evaluation_timeout_s) == (300, 60)
    assert (await world.blobs.get(published.statement.digest)).decode() == FIX["statement.md"]
    workspace = unpack(await world.blobs.get(published.workspace.digest))
    assert sorted(workspace) == ["README.md", "pyproject.toml", "stats/__init__.py", "stats/median.py"]


async def test_a_changed_problem_is_published_again_and_so_is_the_way_back(world):
    for text in ("# New\n\nwords\n", CREATE["instructions.md"]):
        write_folder(world.folder / "tiny-create", {"instructions.md": text})
        await world.publisher.scan()
    found = await digests(world, "tiny-create")
    assert len(found) == 3
    assert found[0] == found[2] != found[1]


async def test_racing_publishers_publish_once(world, tmp_path):
    write_folder(world.folder / "another", CREATE)
    others = [type(world)(world.folder) for _ in range(3)]
    for other in others:
        other.publisher._store, other.publisher._blobs = world.store, world.blobs
    await asyncio.gather(*(other.publisher.scan() for other in others))
    assert len(await digests(world, "another")) == 1


async def test_broken_folders_are_listed_with_reasons_and_stop_nothing(world):
    write_folder(world.folder / "half", {**CREATE, "tests.py": None})
    write_folder(world.folder / "linked", CREATE)
    (world.folder / "linked" / "data").symlink_to("/etc")
    write_folder(world.folder / "new", CREATE)
    await world.publisher.scan()
    reasons = {broken.problem_id: " ".join(broken.reasons) for broken in world.publisher.broken}
    assert set(reasons) == {"half", "linked"}
    assert "tests.py is missing" in reasons["half"]
    assert "symbolic link" in reasons["linked"]
    assert len(await digests(world, "new")) == 1
    with pytest.raises(ProblemBroken, match=r"tests\.py is missing"):
        world.publisher.find("half")


async def test_a_mended_folder_is_published(world):
    write_folder(world.folder / "half", {**CREATE, "tests.py": None})
    await world.publisher.scan()
    write_folder(world.folder / "half", CREATE)
    await world.publisher.scan()
    assert world.publisher.broken == ()
    assert len(await digests(world, "half")) == 1


async def test_two_folders_of_one_name(world, tmp_path):
    write_folder(tmp_path / "more" / "tiny-fix", FIX)
    world.publisher._dirs = (world.folder, tmp_path / "more")
    await world.publisher.scan()
    (broken,) = world.publisher.broken
    assert "has the same id" in broken.reasons[0]
    shutil.rmtree(tmp_path / "more" / "tiny-fix")
    await world.publisher.scan()
    assert world.publisher.broken == ()


async def test_a_missing_folder_is_told(world, tmp_path):
    world.publisher._dirs = (tmp_path / "nowhere",)
    await world.publisher.scan()
    assert "RIDGES_PROBLEMS_DIRS" in world.publisher.broken[0].reasons[0]
    with pytest.raises(ProblemUnknown, match="RIDGES_PROBLEMS_DIRS"):
        world.publisher.find("tiny-fix")


async def test_unknown_problems_are_answered_with_the_known_ones(world):
    with pytest.raises(ProblemUnknown, match="tiny-create, tiny-fix"):
        world.publisher.find("tiny")


async def test_it_says_when_it_cannot_publish_and_goes_on_when_it_can(world, monkeypatch):
    write_folder(world.folder / "new", CREATE)

    async def down(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(world.blobs, "put", down)
        running = asyncio.create_task(world.publisher.run())
        try:
            async with asyncio.timeout(10):
                while world.publisher._trouble is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="disk full"):
                await world.publisher.check()
            patched.undo()
            world.publisher.rescan_soon()
            async with asyncio.timeout(10):
                while not await digests(world, "new"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                while world.publisher._trouble is not None:  # noqa: ASYNC110  # the scan goes on to the other folders
                    await asyncio.sleep(0.01)
            await world.publisher.check()
        finally:
            running.cancel()
