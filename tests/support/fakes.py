"""A worker that needs no process, for whatever measures with workers."""

from ntp.records.endings import Ending
from ntp.records.environment import Process, Software
from ntp.records.run import KernelBurst, WarmUp
from ntp.worker.protocol import PROTOCOL, Imported, Loaded, Ran


class FakeWorker:
    """Answers each request after it has told :meth:`said` of it, which a test may let raise."""

    step_ns = 10_000_000
    kernel_ns = 1000
    parameters = 7
    software = Software(torch="2.9")
    protocol = PROTOCOL
    peak_rss_bytes = 5
    ending = Ending()
    files = ()
    shows = None
    """The observations, whose parts answer the observers' passes."""

    def said(self, what):
        """Take note of a request: ``load``, ``run 5``, ``phases 2``, ``pause``, ``stop``."""

    def times_ns(self, steps):
        return (self.step_ns,) * steps

    def cpu_times_ns(self, steps):
        return (self.step_ns,) * steps

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.said("stop")

    def pause(self):
        self.said("pause")

    def load(self):
        self.said("load")
        return Loaded(parameters=self.parameters, software=self.software, process=Process(), protocol=self.protocol)

    def warm_up(self, steps=None, cpu=None):
        self.said("warm_up" if steps is None else f"warm_up {steps}")
        times_ns = self.times_ns(steps or 8)
        return WarmUp(step_time_ns=times_ns, wall_time_ns=sum(times_ns), steady=True)

    def run(self, steps, expected_s=0.0):
        self.said(f"run {steps}")
        return Ran(
            step_time_ns=self.times_ns(steps),
            step_cpu_ns=self.cpu_times_ns(steps),
            cpu_time_s=1,
            peak_rss_bytes=self.peak_rss_bytes,
            minor_page_faults=30,
            major_page_faults=1,
            ending=self.ending,
        )

    def begin_step(self, cpu=None):
        self.said(f"begin_step {cpu}")

    def move(self, cpu):
        self.said(f"move {cpu}")

    def answers_within(self, seconds):
        return True

    def end_step(self):
        return self.run(1)

    def run_marked_step(self):
        self.said("run_marked_step")
        return self.run(1)

    def calibration_kernel(self):
        self.said("calibration_kernel")
        return KernelBurst(shape=(4, 4, 4), time_ns=(self.kernel_ns,), cpu_time_s=0.25)

    def imported(self, folders, packages):
        self.said("imported")
        return Imported(files=self.files)

    def ask(self, name, **arguments):
        self.said(" ".join([name, *map(str, arguments.values())]))
        return getattr(self.shows, name)
