"""The index follows its file through whatever happens to it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.viewer.index import Filters, Index, reader
from agentfly.viewer.runs.folder import find_run
from tests.unit.viewer.made import append, content, keys, line, replace, run_of


def test_lines_are_indexed_and_read_back(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a", score=80.0), line("b", score=None))
    found = Index(run)
    assert found.refresh()
    rows, total = found.rows(Filters())
    assert (total, [row.key for row in rows]) == (2, ["b", "a"]), "the newest comes first"
    assert rows[1].score == 80.0
    assert rows[1].tools == ("detect_objects",)
    assert rows[1].tokens == 7
    assert found.line(rows[0].n).trajectory.id == "b"
    assert found.raw_line(rows[1].n) == file.read_bytes().splitlines(keepends=True)[0]
    state = found.state()
    assert state.complete
    assert state.chains == 2
    assert state.read == file.stat().st_size
    with pytest.raises(KeyError):
        found.row(99)


def test_what_is_appended_is_added_and_changes_the_revision(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a"))
    found = Index(run)
    found.refresh()
    number, before = found.rows(Filters())[0][0].n, found.state().revision
    append(file, line("b"))
    found.refresh()
    assert keys(found) == ["a", "b"]
    assert found.row(number).key == "a"
    assert found.state().revision != before
    again = found.state().revision
    assert found.refresh()
    assert found.state().revision == again, "nothing new, and nothing told"


def test_a_line_of_the_same_key_replaces_the_one_before(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a", score=1.0), line("b"))
    found = Index(run)
    found.refresh()
    before = found.state().revision
    append(file, line("a", score=2.0))
    found.refresh()
    rows, total = found.rows(Filters())
    assert total == 2
    assert rows[0].key == "a"
    assert rows[0].score == 2.0
    assert found.state().revision != before


def test_a_torn_line_is_read_when_its_end_comes(tmp_path: Path) -> None:
    whole = line("b")
    run, file = run_of(tmp_path / "run", line("a"), whole[:100])
    found = Index(run)
    assert found.refresh()
    state = found.state()
    assert state.complete
    assert state.chains == 1
    assert state.damaged == 0
    assert found.refresh()
    assert found.state().revision == state.revision
    append(file, whole[100:])
    assert not found.state().complete
    found.refresh()
    assert keys(found) == ["a", "b"]
    assert found.row(2).offset == len(line("a"))


def test_a_torn_line_that_is_taken_away_moves_nothing(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a"), b'{"format"')
    found = Index(run)
    found.refresh()
    before = found.state().revision
    os.truncate(file, len(line("a")))
    found.refresh()
    assert found.state().revision == before
    assert found.state().complete
    append(file, line("b"))
    found.refresh()
    assert keys(found) == ["a", "b"]


@pytest.mark.parametrize(
    "broken",
    [
        b"no JSON\n",
        b"[1, 2]\n",
        b'{"format": "agentfly.trajectory/99", "trajectory": {}}\n',
        line("x").replace(b'"answered"', b'"bored"'),
        line("x").replace(b'"step": 1', b'"step": 1' + b"0" * 30),
        b"\xff\xfe\x00\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_damaged_lines_are_counted_and_passed_over(tmp_path: Path, broken: bytes) -> None:
    run, _ = run_of(tmp_path / "run", line("a"), broken, b"\n", line("b"))
    found = Index(run)
    assert found.refresh()
    assert keys(found) == ["a", "b"]
    assert found.state().damaged == 1
    assert found.state().complete


def test_texts_that_utf_8_cannot_carry_and_numbers_that_are_none_are_read(tmp_path: Path) -> None:
    odd = line("a", instruction="x", score=float("nan"), reward=float("inf")).replace(b'"x"', b'"half \\ud800"')
    run, _ = run_of(tmp_path / "run", odd)
    found = Index(run)
    found.refresh()
    row = found.row(1)
    assert row.instruction == "half ?"
    assert row.score is None
    assert row.reward is None


def test_a_line_longer_than_a_batch_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 1000)
    run, file = run_of(tmp_path / "run", line("a"), line("b", answer="x" * 50_000), line("c"))
    found = Index(run)
    assert found.refresh()
    assert keys(found) == ["a", "b", "c"]
    assert found.state().read == file.stat().st_size


def test_a_line_that_would_fill_the_memory_counts_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 1000)
    monkeypatch.setattr(reader, "LARGEST_LINE", 5000)
    run, file = run_of(tmp_path / "run", line("a"), line("b", answer="x" * 50_000), line("c"))
    found = Index(run)
    assert found.refresh()
    assert keys(found) == ["a", "c"]
    assert found.state().damaged == 1
    assert found.state().complete
    append(file, b"y" * 20_000)
    assert found.refresh()
    assert found.state().complete, "one in progress is waited for"
    append(file, b"\n", line("d"))
    found.refresh()
    assert keys(found) == ["a", "c", "d"]
    assert found.state().damaged == 2


def test_a_resumed_run_repeats_the_steps_that_were_cut_back(tmp_path: Path) -> None:
    kept, cut = line("a", step=1), line("b", step=2)
    run, file = run_of(tmp_path / "run", kept, cut)
    found = Index(run)
    found.refresh()
    before = found.state().revision
    replace(file, kept)
    found.refresh()
    assert keys(found) == ["a"]
    assert found.row(1).key == "a"
    assert found.state().revision != before
    replace(file, kept + line("c", step=2) + line("d", step=2))
    found.refresh()
    assert keys(found) == ["a", "c", "d"]


def test_a_file_with_as_many_other_lines_is_read_anew(tmp_path: Path) -> None:
    one, other = line("a", score=10.0), line("a", score=20.0)
    assert len(one) == len(other)
    run, file = run_of(tmp_path / "run", one)
    found = Index(run)
    found.refresh()
    before = found.state().revision
    with file.open("r+b") as same:  # the same file: neither its size nor its place changes
        same.write(other)
    os.utime(file, ns=(0, 0))
    found.refresh()
    assert found.row(1).score == 20.0
    assert found.state().revision != before


def test_a_file_that_was_emptied_and_filled_beyond_is_read_anew(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a"), line("b"))
    found = Index(run)
    found.refresh()
    os.truncate(file, 0)
    append(file, *(line(key, seconds=2.5) for key in "cdefg"))
    found.refresh()
    assert keys(found) == ["c", "d", "e", "f", "g"]


def test_a_file_that_was_cut_and_filled_beyond_is_read_anew(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a"), line("b", seconds=1.5))
    found = Index(run)
    found.refresh()
    os.truncate(file, len(line("a")))  # its beginning stays, and so does the place where the next line would begin
    append(file, line("c", seconds=2.5), line("d"))
    found.refresh()
    assert keys(found) == ["a", "c", "d"]


def test_a_file_that_was_written_in_its_middle_is_read_anew(tmp_path: Path) -> None:
    lines = [line(f"{number:02}", score=10.0) for number in range(60)]
    run, file = run_of(tmp_path / "run", *lines)
    assert file.stat().st_size > 40_000, "neither its beginning nor its end is touched"
    found = Index(run)
    found.refresh()
    lines[20] = line("20", score=90.0)
    with file.open("r+b") as same:
        same.write(b"".join(lines))
    os.utime(file, ns=(0, 0))
    found.refresh()
    assert [row.key for row in found.rows(Filters(score_from=80.0))[0]] == ["20"]


def test_the_rows_of_a_removed_file_go_with_it(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a"))
    found = Index(run)
    found.refresh()
    file.unlink()
    assert found.refresh()
    assert found.state().chains == 0
    assert found.state().complete


def test_a_line_whose_file_was_cut_meanwhile_is_told(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a"), line("b"))
    found = Index(run)
    found.refresh()
    os.truncate(file, len(line("a")) + 10)
    assert found.line(1).trajectory.id == "a"
    with pytest.raises(ConfigError, match="has changed"):
        found.line(2)


def test_parts_have_their_labels_and_appear_when_their_files_do(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    (folder / "training").mkdir(parents=True)
    (folder / "quickstart.json").write_text("{}")
    run_of(folder / "training", line("a"))
    found = Index(find_run(folder, "quick"))
    found.refresh()
    passes = folder / "evaluation" / "trained"
    passes.mkdir(parents=True)
    (passes / "greedy.jsonl").write_bytes(line("b", step=None, validate=None))
    found.refresh()
    assert {row.key: row.label for row in found.rows(Filters())[0]} == {"a": "training", "b": "trained, greedy"}
    assert found.part(2).path == passes / "greedy.jsonl"


def test_time_that_is_over_leaves_the_rest_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 2000)
    run, _ = run_of(tmp_path / "run", *(line(str(number)) for number in range(20)))
    found = Index(run)
    assert not found.refresh(1e-9)
    first = found.state()
    assert 0 < first.chains < 20
    assert not first.complete
    assert found.refresh()
    assert found.state().chains == 20
    assert found.state().revision != first.revision


@pytest.mark.slow
def test_two_viewers_share_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 3000)
    run, file = run_of(tmp_path / "run")
    viewers, faults = [Index(run) for _ in range(4)], []

    def look(viewer: Index) -> None:
        try:
            for _ in range(20):
                viewer.refresh()
                viewer.rows(Filters())
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=look, args=(viewer,)) for viewer in viewers]
    for thread in threads:
        thread.start()
    for number in range(60):
        append(file, line(str(number)))
    for thread in threads:
        thread.join(60)
    assert not faults
    assert viewers[0].refresh()
    assert keys(viewers[1]) == [str(number) for number in range(60)]


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("torn"), st.integers(0, 9), st.integers(1, 400)),
        st.tuples(st.just("noise"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 100), st.just(0)),
        st.tuples(st.just("replace"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("refresh"), st.integers(0, 1), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_EVENTS, st.integers(200, 5000))
def test_after_any_events_it_is_as_one_made_from_scratch(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, int]], batch: int
) -> None:
    run, file = run_of(tmp_path_factory.mktemp("events") / "run")
    found, seconds = Index(run), 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BATCH_BYTES", batch)
        for kind, one, two in events:
            seconds += 0.125  # no two lines are equal, as no two chains take as long
            if kind == "append":
                append(file, line(str(one), score=float(two), seconds=seconds))
            elif kind == "torn":
                append(file, line(str(one), seconds=seconds)[:two])
            elif kind == "noise":
                append(file, (b"\n", b"noise\n", b"{}\n", b'"\xff"\n')[one])
            elif kind == "cut":
                os.truncate(file, file.stat().st_size * one // 100)
            elif kind == "replace":
                replace(file, b"".join(line(str(n), seconds=seconds + n) for n in range(one)))
            else:
                found.refresh(3600.0 if one else 1e-9)
        assert found.refresh()
        fresh, _ = run_of(tmp_path_factory.mktemp("scratch") / "run", file.read_bytes())
        scratch = Index(fresh)
        scratch.refresh()
    assert content(found) == content(scratch)
    assert found.state().damaged == scratch.state().damaged
    for row in found.rows(Filters(size=200))[0]:
        assert json.loads(found.raw_line(row.n))["trajectory"]["id"] == row.id
