"""An evaluator beside the directors, a person between the rounds, and the upload of the best image."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentfly.errors import EvaluatorError
from agentfly.evaluators import EditSample, Score
from recipes.director_generator.__main__ import main
from tests.unit.agents.conftest import failure
from tests.unit.systems.director_generator.conftest import Configure, StudioServer, said
from tests.unit.systems.director_generator.test_command import result_of

HERE = "tests.unit.systems.director_generator.test_further_judges"


class Fixed:
    """An evaluator that gives one score, or fails."""

    def __init__(self, value: float) -> None:
        self.value = value

    async def evaluate(self, sample: EditSample) -> Score:
        assert sample.instruction == "a boat"
        assert sample.result is not None
        assert sample.source.size == sample.result.size
        if self.value < 0:
            raise EvaluatorError("it does not see the boat")
        return Score(self.value, "Crooked horizon.")


def judge(value: float) -> str:
    return f'{{"evaluator": "{HERE}:Fixed", "value": {value}}}'


def images(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [image for phase in result["phases"] for image in phase["images"]]


def test_an_evaluator_counts_as_one_director_more_and_its_words_reach_the_generators(
    configure: Configure, server: StudioServer, tmp_path: Path
) -> None:
    out = ["--output-dir", str(tmp_path / "o"), "--config", str(configure())]
    assert main(["a boat", *out, "--max-iterations", "2", "--evaluator", judge(40)]) == 0
    result = result_of(tmp_path / "o")
    first = images(result)[0]
    assert (first["critiques"]["(evaluator)"], first["score"]) == ({"score": 40, "feedback": "Crooked horizon."}, 65)
    assert result["status"] == "max_loops", "the directors alone would have been satisfied"
    assert any("(evaluator) (40 points): Crooked horizon." in said(body) for body in server.chats)


def test_an_evaluator_of_the_file_that_fails_costs_no_image(configure: Configure, tmp_path: Path) -> None:
    path = configure(evaluator={"evaluator": f"{HERE}:Fixed", "value": -1})
    assert main(["a boat", "--output-dir", str(tmp_path / "o"), "--config", str(path)]) == 0
    result = result_of(tmp_path / "o")
    failed = [call for phase in result["phases"] for call in phase["calls"] if call["error"]]
    assert [(call["agent"], call["error"]) for call in failed] == [("(evaluator)", "it does not see the boat")] * 2
    assert result["best"]["score"] == 90


def test_a_wrong_evaluator_is_told_before_anybody_is_asked(
    configure: Configure, server: StudioServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a boat", "--config", str(configure()), "--evaluator", "juge"]) == 1
    assert "judge" in capsys.readouterr().err
    assert server.chats == []


def test_a_person_decides_and_is_heard(
    configure: Configure, server: StudioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # Two images a round: a score and a comment, then a comment alone; in the second round the first one is good.
    monkeypatch.setattr("sys.stdin", io.StringIO("20\nmore sky\n\nwarmer\n99\n\n\n\n"))
    server.score = lambda _: 50
    out = ["--output-dir", str(tmp_path / "o"), "--config", str(configure())]
    assert main(["a boat", *out, "--max-iterations", "2", "--ask"]) == 0
    result = result_of(tmp_path / "o")
    first, second, third, fourth = images(result)
    assert (first["critiques"]["(person)"], first["score"]) == ({"score": 20, "feedback": "more sky"}, 20)
    assert (second["critiques"]["(person)"]["feedback"], second["score"]) == ("warmer", 50)
    assert (third["score"], "(person)" in fourth["critiques"]) == (99, False)
    assert (result["status"], result["best"]["file"]) == ("threshold", third["file"])
    assert any("(person) (20 points): more sky" in said(body) for body in server.chats)
    shown = " ".join(capsys.readouterr().err.split())
    assert "round 1, plain" in shown.lower()
    assert "your score, 0 to 100 (Enter for 50):" in shown


@contextlib.contextmanager
def web(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback, as a public bucket is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()
        thread.join(10)


def test_the_best_image_is_uploaded_and_its_public_address_is_told(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLOAD_URL", f"file://{tmp_path}/shop/")
    (tmp_path / "shop").mkdir()
    with web(tmp_path / "shop") as url:
        flags = ["--output-dir", str(tmp_path / "o"), "--config", str(configure()), "--allow-private-hosts"]
        assert main(["a boat", *flags, "--public-url", url]) == 0
        result = result_of(tmp_path / "o")
        (stored,) = (tmp_path / "shop").iterdir()
        assert result["best_image_url"] == f"{url}{stored.name}"
        assert result["uploaded_to"] == f"file://{stored}"
    assert stored.read_bytes() == (tmp_path / "o" / result["best"]["file"]).read_bytes()


def test_a_stand_in_and_an_address_that_nobody_can_read_are_told(
    configure: Configure, server: StudioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = ["--config", str(configure(max_loops=1)), "--upload", f"file://{tmp_path}/shop/"]
    with web(tmp_path) as url:
        flags += ["--public-url", f"{url}elsewhere/", "--allow-private-hosts"]
        assert main(["a boat", *flags, "--output-dir", str(tmp_path / "o")]) == 1
    assert "cannot be read at" in result_of(tmp_path / "o")["upload_error"]
    assert "let everybody read that place, or correct --public-url" in capsys.readouterr().err
    monkeypatch.setenv("SDXL_API_BASE", server.url)
    monkeypatch.setenv("SDXL_FAILOVER_MODE", "mock")
    server.image_faults.extend([failure(503, "busy", {"retry-after-ms": "1", "x-should-retry": "false"})] * 2)
    assert main(["a boat", *flags, "--output-dir", str(tmp_path / "p")]) == 1
    assert "is a stand-in" in result_of(tmp_path / "p")["upload_error"]


def test_the_keys_of_the_configuration_hold_the_evaluator_without_secrets(configure: Configure, tmp_path: Path) -> None:
    spec = {"evaluator": "judge", "model": "m", "base_url": "http://user:pa55@127.0.0.1:9/v1"}
    path = configure(evaluator=spec)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["evaluator"] == spec
    main(["a boat", "--output-dir", str(tmp_path / "o"), "--config", str(path)])
    for file in (tmp_path / "o").glob("*.json"):
        assert "pa55" not in file.read_text(encoding="utf-8")
