"""The passes of the observers, each over steps of its own: the one place where they are listed.

A new one is a line here, a record in :mod:`ntp.records.observations` with its field in ``Observations``, and a module
beside this one.
"""

import pkgutil
from collections.abc import Callable
from typing import NamedTuple

from ntp.case import Frozen
from ntp.records.observations import Denormals, FlopCount, MemoryProfile, OperatorProfile, PhaseTimes


class Pass(NamedTuple):
    """One pass, as the worker that runs it and the process that asks for it know it."""

    record: type[Frozen]
    activity: str
    """What the worker does meanwhile, as in "died while timing phases"."""
    function: str
    """Takes the training and what else the pass is asked for with, and returns the record.

    Named, not imported: the asking process has no torch.
    """

    def load(self) -> Callable[..., Frozen]:
        """Import the function."""
        function: Callable[..., Frozen] = pkgutil.resolve_name(self.function)
        return function


PASSES = {
    "phases": Pass(PhaseTimes, "timing phases", "ntp.observe.phases:phase_pass"),
    "memory": Pass(MemoryProfile, "following its memory", "ntp.observe.tensors:tensor_pass"),
    "denormals": Pass(Denormals, "counting denormal numbers", "ntp.observe.tensors:denormals"),
    "flops": Pass(FlopCount, "counting operations", "ntp.observe.flops:flop_pass"),
    # The last: its events leave holes in the heap.
    "operators": Pass(OperatorProfile, "profiling operators", "ntp.observe.profiler:operator_pass"),
}
"""By the fields of :class:`ntp.records.observations.Observations`, in the order in which they are run."""
