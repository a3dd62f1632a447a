"""The options of a sweep: what each means, what it is unless it is given, and how its text is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ntp.case import BATCH_SIZES, EAGER, GROUPS, SEQ_LENS, Options, option_errors, step_levers
from ntp.worker.driver import Sampling

MAX_SECONDS = 86_400
"""What an option may ask for: a day."""


def _integers(text: str) -> tuple[int, ...]:
    """A comma-separated list of positive integers, without repeats, in the order given."""
    try:
        values = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise ValueError("expected positive integers separated by commas, as in 8,32")
    return values


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def _seconds(text: str) -> float:
    """A duration that is worth waiting for and has an end."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"expected seconds, more than 0 and at most {MAX_SECONDS:,}")
    return seconds


def _folder(text: str) -> Path:
    """A folder whose name can be shown, and written into a record."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected a path in UTF-8") from None
    if not text.strip():
        raise ValueError("expected the path of a folder")
    return Path(text)


Integers = Annotated[tuple[int, ...], BeforeValidator(_integers)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Folder = Annotated[Path, BeforeValidator(_folder)]


class SweepOptions(Options):
    """What a sweep is told apart from the fields that all of its cases share."""

    threads: Integers = ()
    """Numbers of torch threads to measure."""
    batch_sizes: Integers = BATCH_SIZES
    """Sequences per step."""
    seq_lens: Integers = SEQ_LENS
    """Predicted positions per sequence."""
    precisions: Names = ("fp32",)
    """Precisions to measure, as ntp train --precision takes them."""
    steps: Names = (EAGER,)
    """Ways to compute the step: 'eager', or levers joined by '+'."""
    sample_time: Seconds = Sampling().time_s
    """How long each case is timed after its warm-up; parts of a step are timed for a quarter of it."""
    min_samples: int = Field(Sampling().min_samples, ge=1)
    """Minimum number of timed steps, however long they take."""
    no_profile: bool = False
    """Skip the pass under torch.profiler after the timed one: no operators, bytes moved or roofline."""
    timeout: Seconds = 300.0
    """A worker that is silent for longer than this has failed."""
    report_dir: Folder = Path("reports/latest")
    """Directory for run.json and its reports, relative to the root directory."""
    baseline: Folder | None = None
    """Judge the sweep by the baselines that ntp baseline has stored in this directory, relative to the root directory.
    Exit status: 1 regression, 2 wrong usage, 3 inconclusive, 4 not comparable, 5 a worker failed."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SweepOptions":
        """The options that were given, by name. Those of cases are passed over.

        Raises:
            OptionError: a value is refused.
        """
        with option_errors():
            return cls.model_validate({name: given[name] for name in cls.model_fields if name in given})


_METAVARS = {"seed": "N", "min_samples": "N", "sample_time": "SECONDS", "timeout": "SECONDS"}
_METAVARS |= {"report_dir": "DIR", "baseline": "DIR"}
_DEFAULTS = {"threads": "1 and all CPUs available", "baseline": "none"}


def help_of(option: str) -> dict[str, Any]:
    """What ``pytest --help`` shows of an option, as argparse takes it."""
    groups: tuple[type[Options], ...] = (SweepOptions, *GROUPS.values())
    field = next(group.model_fields[option] for group in groups if option in group.model_fields)
    shown = " ".join((field.description or "").split())
    if option == "steps":
        shown = f"{shown.removesuffix('.')}: {', '.join(step_levers())}."
    if field.annotation is bool:
        return {"help": shown}
    several = isinstance(field.default, tuple)
    default = ",".join(map(str, field.default)) if several else field.default
    metavar = "LIST" if several else "N" if field.annotation is int else "NAME"
    shown = f"{shown} Default: {_DEFAULTS.get(option, default)}"
    return {"metavar": _METAVARS.get(option, metavar), "help": shown.replace("%", "%%")}
