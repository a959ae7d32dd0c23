"""Run folders that are not as a run leaves them: pipes, links, names and numbers of all kinds."""

from __future__ import annotations

import errno
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from agentfly.errors import ConfigError, ImageError
from agentfly.images import ImageStore
from agentfly.provenance import read_starts
from agentfly.viewer import thumbnails
from agentfly.viewer.index import Index
from agentfly.viewer.ratings import RatedChain, Rating, Ratings
from agentfly.viewer.runs.facts import is_number, read_object, settings_of
from agentfly.viewer.runs.folder import HOME, find_run
from agentfly.viewer.runs.growing import GrowingFile
from agentfly.viewer.thumbnails import Thumbnails
from tests.unit.viewer.made import keys, line, run_of, serving
from tests.unit.viewer.small_runs import view_of, write_run

RATING = Rating("task", (RatedChain("r" * 16, "chain", "img_aaaaaaaaaaaa"),), score=50.0)


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.timeout(20)
def test_pipes_are_no_files(tmp_path: Path) -> None:
    # Opened for reading, a pipe waits for a writer for ever.
    found = pipe(tmp_path / "pipe")
    assert GrowingFile(found).new_lines() == ([], False)
    assert read_object(found) == {}
    assert read_starts(found) == []
    run, _ = run_of(tmp_path / "run", line("a"))
    pipe(run.folder / "config.yaml")
    assert settings_of(find_run(run.folder, "run")).files == ()
    pipe(run.folder / "ratings.jsonl")
    kept = Ratings(run)
    assert kept.read() == ([], 0)
    assert kept.elsewhere
    kept.add(RATING)
    assert kept.read()[0] == [RATING]


@pytest.mark.parametrize("target", ["notes.txt", "not there"])
def test_ratings_do_not_follow_a_link(tmp_path: Path, target: str) -> None:
    run, _ = run_of(tmp_path / "run", line("a"))
    mine = tmp_path / target
    if target == "notes.txt":
        mine.write_text("mine\n")
    (run.folder / "ratings.jsonl").symlink_to(mine)
    kept = Ratings(run)
    kept.add(RATING)
    assert kept.read()[0] == [RATING]
    assert not mine.exists() if target == "not there" else mine.read_text() == "mine\n"


def test_the_viewer_keeps_nothing_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index-1.sqlite").write_text("of another program")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / HOME).symlink_to(mine)
    run, _ = run_of(folder, line("a"))
    assert Index(run).refresh()
    assert [path.name for path in mine.iterdir()] == ["index-1.sqlite"]


def test_files_of_other_names_stay_beside_an_index(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path / "run", line("a"))
    other = run.home / "my-index-of-songs.sqlite"
    other.write_text("songs")
    (run.home / "index-1.sqlite").write_text("of an earlier version")
    assert Index(run).refresh()
    assert other.exists()
    assert not (run.home / "index-1.sqlite").exists()


def test_a_temporary_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"agentfly-view-{os.getuid()}").symlink_to(tmp_path / "theirs")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / HOME).write_text("no folder")
    run, _ = run_of(folder, line("a"))
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        run.home  # noqa: B018
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_folder_may_have_the_name_of_a_file(tmp_path: Path, name: str) -> None:
    run, file = run_of(tmp_path / name, line("a"))
    assert (run.folder, run.parts()[0].path) == (tmp_path / name, file)
    assert run.home == tmp_path / name / HOME
    index = Index(run)
    assert index.refresh()
    assert keys(index) == ["a"]


def test_a_name_that_is_no_text_is_told_at_once(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    folder.mkdir()
    (folder / "trajectories.jsonl").write_bytes(line("a"))
    with pytest.raises(ConfigError, match="is no UTF-8: rename it") as raised:
        find_run(folder, "run")
    assert str(raised.value).encode()


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "1", None])
def test_not_every_number_can_be_shown(value: object) -> None:
    assert not is_number(value)
    assert is_number(10**300)
    assert is_number(-0.5)


def test_a_setting_of_thousands_of_digits_is_a_sentence(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path / "run", line("a"))
    (run.folder / "config.yaml").write_text(f"a: 0x{'f' * 9000}\n")
    assert "config.yaml cannot be read" in settings_of(find_run(run.folder, "run")).problem


@pytest.mark.parametrize("number", ["9" * 30, "-1", "word", "9" * 5000])
@pytest.mark.parametrize("place", ["chains/{}", "chains/{}/raw", "images/{}/img_0123456789ab.png", "chains/1/text/{}"])
def test_an_address_with_any_number_is_no_fault_of_the_viewer(tmp_path: Path, place: str, number: str) -> None:
    run_of(tmp_path / "run", line("a"))
    with serving(tmp_path / "run") as client:
        answer = client.get(f"/runs/run/{place.format(number)}")
        assert answer.status_code == 404
        assert "Content-Security-Policy" in answer.headers
        rerun = client.post(f"/runs/run/chains/{number}/rerun", headers={"X-Agentfly": "view"})
        assert rerun.status_code == 404
        assert "error" in rerun.json()


def test_rewards_at_the_end_of_all_floats_have_a_group(tmp_path: Path) -> None:
    lines = (line(str(place), task="t", group="g", reward=value) for place, value in enumerate((1e308, -1e308, 0.5)))
    run_of(tmp_path / "run", *lines)
    with serving(tmp_path / "run") as client:
        assert [client.get(f"/runs/run/{name}").status_code for name in ("groups", "group?task=t", "")] == [200] * 3


@pytest.mark.parametrize("sent", [{"score": 10**400}, {"score": 50, "seconds": 10**400}])
def test_a_number_beyond_all_floats_is_no_verdict(tmp_path: Path, sent: dict[str, int]) -> None:
    run_of(tmp_path / "run", line("a"))
    with serving(tmp_path / "run") as client:
        client.get("/runs/run/chains")
        result = {"slug": "run", "n": 1, "chain": "a", "image": "img_000000000001"}
        answer = client.post("/runs/run/rate", headers={"X-Agentfly": "view"}, json={"results": [result], **sent})
        assert answer.status_code == (400 if sent["score"] > 100 else 200)


def test_few_images_are_decoded_at_once_and_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path / "images")
    handles = [store.put(Image.new("RGB", (8, 8), (shade, 0, 0))) for shade in range(6)]
    at_once, most, made = 0, 0, list[Path]()
    lock, both = threading.Lock(), threading.Event()

    def slow(image: Image.Image, *_: int) -> bytes:
        nonlocal at_once, most
        with lock:
            at_once, most = at_once + 1, max(most, at_once + 1)
            if at_once == 2:
                both.set()
        assert both.wait(10)
        with lock:
            at_once -= 1
        return b"webp"

    monkeypatch.setattr(thumbnails, "thumbnail_bytes", slow)

    def write(path: Path, data: bytes) -> int:
        made.append(path)
        return path.write_text("webp")

    monkeypatch.setattr(Path, "write_bytes", write)
    found = Thumbnails(tmp_path / "thumbs")
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda handle: found.get(handle, store), handles * 2))
    assert (most, len(made)) == (2, 6)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_thumbnails_are_shown_when_they_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    row = view_of(write_run(tmp_path / "run", [[1]]))["run"].index.row(1)
    address = f"/runs/run/thumbs/{row.part}/{row.source}.webp"
    with serving(tmp_path / "run") as client:
        with monkeypatch.context() as patch:

            def refuse(path: Path, _: bytes) -> int:
                raise OSError(number, os.strerror(number), str(path))

            patch.setattr(Path, "write_bytes", refuse)
            answer = client.get(address)
            # Without the right to write, the folder is another one; what else fails must be told.
            assert answer.status_code == (404 if number == errno.EACCES else 200)
        assert not list((tmp_path / "run" / HOME / "thumbnails").iterdir())
        later = client.get(address)
        assert Image.open(io.BytesIO(later.content)).format == "WEBP"
        assert answer.status_code == 404 or answer.content == later.content
    assert [path.stem for path in (tmp_path / "run" / HOME / "thumbnails").iterdir()] == [row.source]


def test_a_thumbnail_of_no_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="was not kept"):
        Thumbnails(tmp_path).get("img_0123456789ab", ImageStore())
