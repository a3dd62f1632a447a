"""A look at the machine as it is right now."""

import time
from collections.abc import Callable

from ntp.machine.software import read_git, read_process, read_software
from ntp.machine.system import read_counters, read_machine
from ntp.records.environment import Environment, conditions


def examine(seconds: float = 1.0, sleep: Callable[[float], None] = time.sleep) -> Environment:
    """The environment of this process, with what other processes did during so many idle seconds."""
    before, cpu_s = read_counters(), time.process_time()
    sleep(seconds)
    seen = conditions(before, read_counters(), time.process_time() - cpu_s)
    import torch  # noqa: F401  (its libraries are to be found loaded)

    return Environment(
        machine=read_machine(), software=read_software(), process=read_process(), git=read_git(), conditions=seen
    )
