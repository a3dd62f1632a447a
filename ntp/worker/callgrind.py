"""How many instructions a step executes, counted by valgrind's callgrind.

The count is nearly the same each time: where code has not changed, it repeats to a few hundredths of a percent,
whatever else runs on the machine. It is blind to all that makes an instruction slow: caches, bandwidth, threads that
wait for each other.

Source: N. Nethercote and J. Seward, Valgrind: A Framework for Heavyweight Dynamic Binary Instrumentation (PLDI 2007);
the options are those of https://valgrind.org/docs/manual/cl-manual.html.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO

from ntp.case import Case, Runtime
from ntp.errors import OptionError, WorkerFailed
from ntp.lines import one_line
from ntp.records.guard import Instructions
from ntp.records.pairs import SideName
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import WorkerProcess, new_process
from ntp.worker.pairs import blamed
from ntp.worker.protocol import STEP_BEGINS, STEP_ENDS, stopped_on_error
from ntp.worker.sources import Source

BATCH_SIZE, SEQ_LEN = 2, 16
"""Sizes of the step that is counted: valgrind emulates its products, a thousand times as slowly as they are."""

STEPS_BEFORE = 2
"""The step that is counted is the one after these: from step to step the count drifts."""

_TIMEOUT_S = 600.0
_SWITCH_TIMEOUT_S = 60.0
_UNKNOWN_INSTRUCTION = (
    "this valgrind does not know an instruction of this CPU: install a newer one, or omit --instructions"
)
_VARIABLES = {"PYTHONHASHSEED": "0"}
"""The order of sets, and with it the number of comparisons, must be the same on both sides."""


def check_valgrind() -> None:
    """Refuse to count instructions where valgrind is missing.

    Raises:
        OptionError: it is.
    """
    if sys.platform != "linux" or not all(map(shutil.which, ("valgrind", "vgdb"))):
        raise OptionError("--instructions needs valgrind, which is not on the PATH: install it, or omit the option")


def small(case: Case) -> Case:
    """The case whose instructions are counted in place of this one: a small step on one thread."""
    workload = case.workload.model_copy(update={"batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "part": "step"})
    runtime = case.runtime.model_copy(update={"threads": 1, "wait_policy": "unset"})
    return case.model_copy(update={"workload": workload, "runtime": runtime})


def count_instructions(case: Case, sources: Mapping[SideName, Source]) -> Instructions:
    """Count the instructions of a step of both sides, at the same time: neither is timed.

    Raises:
        SideFailed: one of them died, hung or refused, or callgrind could not watch it.
    """
    with tempfile.TemporaryDirectory(prefix="ntp-callgrind-") as folder, ExitStack() as stack:
        files = {side: Path(folder) / side for side in sources}
        workers = {
            side: stack.enter_context(
                PipeWorker(case, timeout_s=_TIMEOUT_S, source=source, launch=partial(_launch, files[side]))
            )
            for side, source in sources.items()
        }
        with ThreadPoolExecutor(len(workers)) as pool, stopped_on_error(*workers.values()):
            counting = {side: pool.submit(_count, side, workers[side], files[side]) for side in workers}
            counted = {side: future.result() for side, future in counting.items()}
    return Instructions(case_id=case.id, base=counted["base"], head=counted["head"])


def _launch(file: Path, runtime: Runtime, source: Source, stderr: IO[bytes]) -> WorkerProcess:
    under = (
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={file}"),
        *(f"--zero-before=*{STEP_BEGINS}*", f"--dump-before=*{STEP_ENDS}*"),
    )
    return new_process(runtime, source, stderr, under=under, variables=_VARIABLES)


def _count(side: SideName, worker: PipeWorker, file: Path) -> int:
    with blamed(side):
        try:
            worker.load()
            worker.run(STEPS_BEFORE)
            _switch_on(worker.pid)
            worker.run_marked_step()
        except WorkerFailed as error:
            if signal.SIGILL.name not in str(error):
                raise
            raise WorkerFailed(f"{error}: {_UNKNOWN_INSTRUCTION}", error.stderr_tail) from error
        # The dumps are numbered, and the first is the one of the mark.
        return total_of(file.with_name(f"{file.name}.1"))


def _switch_on(pid: int) -> None:
    """Let callgrind look from now on: until then, a process that it watches is six times as fast."""
    command = ("vgdb", f"--pid={pid}", "instrumentation", "on")
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SWITCH_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = one_line(str(getattr(error, "stderr", None) or error))
        raise WorkerFailed(f"callgrind could not be switched on ({said}): omit --instructions") from error


def total_of(profile: Path) -> int:
    """Return the number of instructions in a profile of callgrind's.

    Raises:
        WorkerFailed: there is none.
    """
    try:
        with profile.open(encoding="utf-8", errors="replace") as lines:
            total = next(line.split()[1] for line in lines if line.startswith("totals:"))
    except (OSError, StopIteration, IndexError):
        raise WorkerFailed("callgrind kept no count of the step: omit --instructions") from None
    return int(total)
