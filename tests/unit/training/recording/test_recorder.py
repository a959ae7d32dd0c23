"""Chains are written beside the rollout, images before the lines that name them."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents.trajectory import ToolRecord, Turn
from agentfly.agents.trajectory_file import read_trajectories
from agentfly.images import ImageStore
from agentfly.training.launch.log_reader import notice_in
from agentfly.training.recording import recorder as recorder_module
from agentfly.training.recording.image_budget import ImageBudget
from agentfly.training.recording.recorder import ChainRecorder
from tests.unit.training.recording.records import record


def recorder(folder: Path, max_bytes: int | None = None) -> ChainRecorder:
    return ChainRecorder(folder / "trajectories.jsonl", ImageBudget(folder / "images", max_bytes, 40))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]


def notices(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in map(notice_in, caplog.messages) if text is not None]


def test_chains_are_written_in_their_order_with_their_images(tmp_path: Path) -> None:
    writer = recorder(tmp_path)
    chains = [record(f"chain-{number}", row=number) for number in range(40)]
    for chain in chains:
        writer.record(chain)
    assert writer.drain(60.0)
    found = lines(tmp_path)
    assert [line["trajectory"]["id"] for line in found] == [chain.trajectory.id for chain in chains]
    assert not any("images_kept" in line for line in found)
    kept = ImageStore(tmp_path / "images")
    for chain in chains:
        assert chain.store is not None
        for handle in chain.handles:
            assert kept.get(handle).tobytes() == chain.store.get(handle).tobytes()


def test_the_masks_of_edits_are_kept(tmp_path: Path) -> None:
    """They are no images of the conversation, and show where an edit was made."""
    chain = record("chain")
    assert chain.store is not None
    mask = chain.store.put(Image.new("L", (8, 8), 255))
    edit = ToolRecord("auto_inpaint_image", {}, 0.1, data={"mask": mask})
    chain.trajectory.turns.append(Turn("edit", "stop", 0.1, (edit,)))
    writer = recorder(tmp_path)
    writer.record(chain)
    assert writer.drain(60.0)
    assert ImageStore(tmp_path / "images").get(mask).mode == "L"


def test_a_rollout_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, begun = threading.Event(), threading.Event()
    sync = ImageStore.sync

    def stuck(self: ImageStore) -> None:
        begun.set()
        assert free.wait(60.0)
        sync(self)

    monkeypatch.setattr(ImageStore, "sync", stuck)
    writer = recorder(tmp_path)
    writer.record(record("first"))
    assert begun.wait(60.0)
    for number in range(50):
        writer.record(record(f"chain-{number}"))
    assert not writer.drain(0.01)
    # The images of the first chain are not known to be on the disk.
    assert not (tmp_path / "trajectories.jsonl").exists()
    free.set()
    assert writer.drain(60.0)
    assert len(lines(tmp_path)) == 51


def test_a_full_queue_costs_images_and_then_chains_but_never_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free, begun = threading.Event(), threading.Event()
    write = ChainRecorder._write

    def stuck(self: ChainRecorder, records: Any) -> None:
        begun.set()
        assert free.wait(60.0)
        write(self, records)

    monkeypatch.setattr(ChainRecorder, "_write", stuck)
    monkeypatch.setattr(recorder_module, "_MOST_CHAINS", 3)
    monkeypatch.setattr(recorder_module, "_MOST_BYTES", 2 * 24 * 24 * 3)
    writer = recorder(tmp_path)
    writer.record(record("in work"))
    assert begun.wait(60.0)
    for number in range(5):
        writer.record(record(f"chain-{number}"))
    free.set()
    assert writer.drain(60.0)
    assert [(line["trajectory"]["id"], line.get("images_kept")) for line in lines(tmp_path)] == [
        ("in work", None),
        ("chain-0", None),
        ("chain-1", False),
        ("chain-2", False),
    ]
    assert [text.partition(":")[0] for text in notices(caplog)] == [
        "the disk is too slow for the images of this run",
        "the disk is too slow for the chains of this run",
    ]


def test_beyond_the_limit_lines_say_that_their_images_are_not_kept(tmp_path: Path) -> None:
    writer = recorder(tmp_path, max_bytes=8_000)
    for number in range(12):
        writer.record(record(f"chain-{number}", step=number, row=number))
        assert writer.drain(60.0)
    last = record("validated", step=20, validate=True)
    writer.record(last)
    assert writer.drain(60.0)
    kept = [line.images_kept for _, line in read_trajectories(tmp_path / "trajectories.jsonl")]
    assert kept[0]
    assert not all(kept)
    size = sum(path.stat().st_size for path in (tmp_path / "images").glob("*.png"))
    # The last chain that was kept may go a little over it.
    assert 4_000 < size < 8_000 + 4_500
    store = ImageStore(tmp_path / "images")
    for _, line in read_trajectories(tmp_path / "trajectories.jsonl"):
        assert all(handle in store for handle in line.trajectory.images) or not line.images_kept


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error")])
def test_a_broken_disk_is_one_notice_and_chains_are_written_without_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: OSError
) -> None:
    def broken(self: ImageStore, *of_one: object) -> None:
        raise fault

    monkeypatch.setattr(ImageStore, "_write", broken)
    writer = recorder(tmp_path)
    for number in range(3):
        writer.record(record(f"chain-{number}"))
    assert writer.drain(60.0)
    assert [line["images_kept"] for line in lines(tmp_path)] == [False] * 3
    [notice] = notices(caplog)
    assert notice.startswith("images of chains cannot be kept, and training goes on without: ")
    monkeypatch.undo()
    writer.record(record("later"))
    assert writer.drain(60.0)
    assert "images_kept" not in lines(tmp_path)[-1]


def test_an_image_that_is_lost_makes_no_line_that_names_it_in_vain(tmp_path: Path) -> None:
    chain = record("chain")
    assert chain.store is not None
    chain.store.discard(chain.trajectory.images[1])
    writer = recorder(tmp_path)
    writer.record(chain)
    assert writer.drain(60.0)
    assert lines(tmp_path)[0]["images_kept"] is False


def test_a_bug_costs_its_chain_and_the_thread_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ChainRecorder, "_write", lambda self, records: 1 / 0)
    writer = recorder(tmp_path)
    writer.record(record("lost"))
    assert writer.drain(60.0)
    monkeypatch.undo()
    writer.record(record("found"))
    assert writer.drain(60.0)
    assert [line["trajectory"]["id"] for line in lines(tmp_path)] == ["found"]
    assert notices(caplog) == ["chains were not written: ZeroDivisionError: division by zero"]


def test_a_run_that_records_nothing_has_no_thread(tmp_path: Path) -> None:
    writer = ChainRecorder(None, None)
    writer.record(record("chain"))
    assert writer.drain(0.0)
    assert list(tmp_path.iterdir()) == []
    assert all(thread.name != "agentfly-recorder" or thread.daemon for thread in threading.enumerate())


def write_and_die(folder: Path, number: int) -> None:
    writer = recorder(folder, max_bytes=10**9)
    for index in range(200):
        writer.record(record(f"chain-{number}-{index}", row=index, side=64))
        if index == 150:
            writer.drain(60.0)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_killed_processes_leave_whole_lines_whose_images_are_there(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=write_and_die, args=(tmp_path, n)) for n in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
        assert process.exitcode == -signal.SIGKILL
    found = list(read_trajectories(tmp_path / "trajectories.jsonl"))
    # At most what was in the queues is lost.
    assert len(found) >= 2 * 151
    store = ImageStore(tmp_path / "images")
    for _, line in found:
        assert line.images_kept
        assert all(store.get(handle).size == (64, 64) for handle in line.trajectory.images)
    budget = json.loads((tmp_path / "images" / ".budget.json").read_text())
    size = sum(path.stat().st_size for path in (tmp_path / "images").glob("*.png"))
    # An image that both wrote at once counts twice.
    assert budget["used"] == pytest.approx(size, rel=0.3)


def exit_at_once(folder: Path) -> None:
    writer = recorder(folder)
    for index in range(30):
        writer.record(record(f"chain-{index}", side=64))


@pytest.mark.slow
def test_a_process_that_ends_writes_what_is_in_its_queue(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = f"from pathlib import Path; from {__name__} import exit_at_once; exit_at_once(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert len(lines(tmp_path)) == 30
