"""Questions to a person on the terminal: what is kept, what is asked again, and Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest

from agentfly.cli.ask import ask_on_terminal
from agentfly.systems.person import Opinion, Question

QUESTION = Question("round 1, Plain", Path("o/a.png"), 62.4, "Cut off.\x1b[2J")


@pytest.mark.parametrize(
    ("answers", "opinion"),
    [
        ("80\nmore sky\n", Opinion(80.0, "more sky")),
        ("\n\n", Opinion()),
        ("101\nnan\nfine\n7.5\n\n", Opinion(7.5)),
        ("80\n", Opinion(80.0)),
        ("", Opinion()),
    ],
)
def test_answers(answers: str, opinion: Opinion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answers))
    assert ask_on_terminal(QUESTION) == opinion


def test_the_question_has_the_file_and_the_judges_opinion_and_no_controls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    ask_on_terminal(QUESTION)
    said = capsys.readouterr()
    assert said.out == ""
    assert "round 1, Plain, o/a.png\n  judged 62 of 100: Cut off." in said.err
    assert "\x1b[2J" not in said.err


def test_ctrl_c_ends_the_wait_and_leaves_the_handler_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def readline(self) -> str:
            os.kill(os.getpid(), signal.SIGINT)
            return "too late\n"

    def of_a_loop(*_: object) -> None:
        """Ignore the signal, as a running loop of asyncio does with the first one."""

    monkeypatch.setattr("sys.stdin", Interrupted())
    before = signal.signal(signal.SIGINT, of_a_loop)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask_on_terminal(QUESTION)
        assert signal.getsignal(signal.SIGINT) is of_a_loop
    finally:
        signal.signal(signal.SIGINT, before)
