"""Examine the machine as it is now."""

import time
from collections.abc import Callable

from ntp.machine.software import read_git, read_process, read_software
from ntp.machine.system import read_counters, read_machine
from ntp.records.environment import Environment, conditions


def examine(seconds: float = 1.0, sleep: Callable[[float], None] = time.sleep) -> Environment:
    """Read the environment of this process, and what other processes do during some idle seconds."""
    before, cpu_s = read_counters(), time.process_time()
    sleep(seconds)
    observed = conditions(before, read_counters(), time.process_time() - cpu_s)
    import torch  # noqa: F401  (so that its libraries are loaded)

    return Environment(
        machine=read_machine(), software=read_software(), process=read_process(), git=read_git(), conditions=observed
    )
