"""The worker's side of its contract: each job that it was given ends with one `Done`."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection, Pipe

import pytest
from PIL import Image

from agentfly.serving.image_server.workers.messages import Assign, Cancel, Done, Fault, Operation, Outcome, Work
from agentfly.serving.image_server.workers.worker import _Worker

WORK = Work(Operation.edit, "x", (Image.new("RGB", (4, 4)),))


class Engine:
    """Waits for ever, or returns what it was given."""

    name = "engine"
    operations = frozenset(Operation)

    def __init__(self, outcome: object = None) -> None:
        self.outcome, self.begun = outcome, asyncio.Event()

    async def run(self, work: Work) -> Outcome:
        self.begun.set()
        if self.outcome is None:
            await asyncio.Event().wait()
        return self.outcome  # type: ignore[return-value]


def worker(engine: Engine) -> tuple[_Worker, Connection]:
    server, ours = Pipe()
    return _Worker(ours, engine), server


async def done_of(server: Connection) -> list[Done]:
    """Return the first `Done`, and those that come at once after it."""
    assert await asyncio.to_thread(server.poll, 10), "the job has no end"
    found = [server.recv()]
    for _ in range(10):
        await asyncio.sleep(0)
    while server.poll():
        found.append(server.recv())
    return found


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_job_that_is_cancelled_before_its_first_step_ends(cancels: int) -> None:
    made, server = worker(Engine())
    made.handle(Assign(7, WORK))
    for _ in range(cancels):
        made.handle(Cancel(7))
    assert [(done.job, done.fault) for done in await done_of(server)] == [(7, Fault.cancelled)]


async def test_a_job_that_is_cancelled_while_it_runs_ends_once_even_if_it_is_cancelled_again() -> None:
    engine = Engine()
    made, server = worker(engine)
    made.handle(Assign(7, WORK))
    await engine.begun.wait()
    made.handle(Cancel(7))
    made.handle(Cancel(7))
    assert [(done.job, done.fault) for done in await done_of(server)] == [(7, Fault.cancelled)]
    made.handle(Cancel(7))
    assert not server.poll()


async def test_an_outcome_that_cannot_be_sent_is_a_fault_of_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    made, server = worker(Engine(Outcome(detections=(lambda: None,))))  # type: ignore[arg-type]
    made.handle(Assign(7, WORK))
    (done,) = await done_of(server)
    assert (done.job, done.fault, done.outcome) == (7, Fault.internal, None)
    assert "cannot be sent" in caplog.text
