"""The cases of a sweep: all combinations of what its options list."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ntp.case import Case, named_step
from ntp.machine.cpus import available_cpus, check_runtime, check_threads
from ntp.machine.runtime import environment_variables
from ntp.sweep_options import SweepOptions

VARIED = ("threads", "batch_size", "seq_len", "precision", "step")
"""What the sweep's options vary, by the names that ``--benchmark-group-by=param:threads`` and similar options know."""


class SweepCases:
    """The cases of a sweep. Each of them makes sense, and can be set up here.

    Args:
        given: the options that were given, by name: those of cases hold for all of them.
        options: all options of the sweep.

    Raises:
        OptionError: a value, or a combination of values, is refused.
    """

    def __init__(self, given: Mapping[str, Any], options: SweepOptions) -> None:
        self._given = dict(given)
        self._options = options
        self.threads = options.threads or tuple(dict.fromkeys((1, available_cpus().max_threads)))
        check_threads(max(self.threads))
        for values in self.combinations():
            runtime = self.case(values).runtime
            check_runtime(runtime)
            environment_variables(runtime)

    def combinations(self, *, largest: bool = False, **fixed: Sequence[str]) -> list[dict[str, Any]]:
        """Return all combinations of the sweep's options. A case that several of them describe is there once.

        Args:
            largest: only of its largest thread count, batch size and sequence length.
            fixed: further fields of a case (``part``, ``data``, ``optimizer``), each with the values it is to take.
        """
        options = self._options
        sizes = [self.threads, options.batch_sizes, options.seq_lens]
        if largest:
            sizes = [(max(values),) for values in sizes]
        values = itertools.product(*sizes, options.precisions, options.steps, *fixed.values())
        combinations = (dict(zip((*VARIED, *fixed), combination, strict=True)) for combination in values)
        return list({self.case(values): values for values in combinations}.values())

    def case(self, values: Mapping[str, Any]) -> Case:
        """Return the case of one of the :meth:`combinations`."""
        return Case.of(self._given | named_step(values["step"]).model_dump(exclude_defaults=True) | dict(values))
