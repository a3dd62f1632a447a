"""Two processes that alternate, of workers that need no process."""

import pytest
from fakes import FakeWorker

from ntp.errors import WorkerFailed
from ntp.runners.bench import Bench
from ntp.runners.disturbance import spreads
from ntp.worker.driver import Sampling


class Steps(FakeWorker):
    """A worker whose steps take 10 ms, but for the first two of a block, and one in ten where it is plain."""

    def __init__(self, case, asked, bursts=()):
        self.plain = case.runtime.allocator == "glibc"
        self.asked, self.bursts, self.blocks = asked, bursts, 0

    def said(self, what):
        if what in ("load", "stop"):
            self.asked.append(what)

    def run(self, steps):
        self.asked.append((self.plain, steps))
        self.blocks += 1
        usual = [30 if self.blocks in self.bursts or (self.plain and n % 10 == 0) else 10 for n in range(steps - 2)]
        # A burst makes half of its steps slow.
        if self.blocks in self.bursts:
            usual[::2] = [10] * len(usual[::2])
        ran = super().run(steps)
        return ran.model_copy(update={"step_time_ns": tuple(ms * 1_000_000 for ms in (90, 50, *usual))})


def test_blocks_alternate_and_their_first_steps_do_not_count():
    asked = []
    spread = spreads(2, sampling=Sampling(time_s=1.0, blocks=5), bench=Bench(lambda case, _: Steps(case, asked)))
    assert asked == ["load", "load", *[(False, 22), (True, 22)] * 5, "stop", "stop"]
    assert spread.quiet == 0
    assert spread.plain == pytest.approx(2)


def test_a_burst_or_two_are_not_the_machines_own():
    spread = spreads(
        1, sampling=Sampling(time_s=1.0, blocks=5), bench=Bench(lambda case, _: Steps(case, [], bursts=(1, 4)))
    )
    assert spread.quiet == 0


def test_a_worker_that_is_lost_ends_it_and_the_other():
    asked = []

    class Lost(Steps):
        def run(self, steps):
            raise WorkerFailed("died")

    with pytest.raises(WorkerFailed, match="died"):
        spreads(1, bench=Bench(lambda case, _: Lost(case, asked)))
    assert asked == ["load", "load", "stop", "stop"]
