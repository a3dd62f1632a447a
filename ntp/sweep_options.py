"""The options of a sweep: their meaning, their defaults, and how their text is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from ntp.case import BATCH_SIZES, EAGER, GROUPS, MAX_NUMBER, SEQ_LENS, Options, option_errors, step_levers
from ntp.parsing import integers, names, seconds, share
from ntp.runners.sweep import BUDGET_S, ROUNDS
from ntp.worker.driver import Sampling


def _folder(text: str) -> Path:
    """Read the name of a folder, which must be fit to be shown and written into a record."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected a path in UTF-8") from None
    if not text.strip():
        raise ValueError("expected the path of a folder")
    return Path(text)


Integers = Annotated[tuple[int, ...], BeforeValidator(integers)]
Names = Annotated[tuple[str, ...], BeforeValidator(names)]
Seconds = Annotated[float, BeforeValidator(seconds)]
Share = Annotated[float, BeforeValidator(share)]
Folder = Annotated[Path, BeforeValidator(_folder)]


class SweepOptions(Options):
    """The options of a sweep, besides the fields that all of its cases share."""

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
    rounds: int = Field(ROUNDS, ge=1, le=MAX_NUMBER)
    """Rounds of the sweep. Each measures every case in a fresh process, in random order."""
    order_seed: int | None = Field(None, ge=0, le=MAX_NUMBER)
    """Random seed for the order of the cases within the rounds."""
    precision: Share | None = None
    """Add rounds for the cases whose interval is wider than this to either side, as in 1%."""
    budget: Seconds = BUDGET_S
    """Add no round for --ntp-precision that would make the rounds take longer than this, all in all."""
    sample_time: Seconds = Sampling().time_s
    """How long each process is timed after its warm-up; parts of a step are timed for a quarter of it."""
    min_samples: int = Field(Sampling().min_samples, ge=1)
    """Minimum number of timed steps of each process, however long they take."""
    no_profile: bool = False
    """Skip the pass under torch.profiler after the timed one: no operators, bytes moved or roofline."""
    timeout: Seconds = 300.0
    """A worker that is silent for longer than this has failed."""
    report_dir: Folder = Path("reports/latest")
    """Directory for run.json and its reports, relative to the root directory."""
    baseline: Folder | None = None
    """Judge the sweep by the baselines that ntp baseline has stored in this directory, relative to the root directory.
    Exit status: 1 regression, 2 wrong usage, 3 inconclusive, 4 not comparable, 5 a worker failed."""

    @model_validator(mode="after")
    def _budget_has_a_purpose(self) -> Self:
        if "budget" in self.model_fields_set and self.precision is None:
            raise ValueError(
                "--ntp-budget limits the search for a precision, and none is asked for: add --ntp-precision 1%, or "
                "leave --ntp-budget out"
            )
        return self

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SweepOptions":
        """Read the options that were given, by name. Those of cases are ignored.

        Raises:
            OptionError: a value is refused.
        """
        with option_errors():
            return cls.model_validate({name: given[name] for name in cls.model_fields if name in given})


_DEFAULTS = {
    "threads": "1 and all CPUs available",
    "baseline": "none",
    "order_seed": "drawn, and recorded",
    "precision": "none",
}

_METAVARS = {"report_dir": "DIR", "baseline": "DIR", "order_seed": "N", "precision": "SHARE"}


def help_of(option: str) -> dict[str, Any]:
    """Return what ``pytest --help`` shows for an option, as argparse takes it."""
    groups: tuple[type[Options], ...] = (SweepOptions, *GROUPS.values())
    field = next(group.model_fields[option] for group in groups if option in group.model_fields)
    shown = " ".join((field.description or "").split())
    if option == "steps":
        shown = f"{shown.removesuffix('.')}: {', '.join(step_levers())}."
    match field.default:
        case bool():
            return {"help": shown}
        case tuple() as values:
            metavar, default = "LIST", ",".join(map(str, values))
        case float() as duration_s:
            metavar, default = "TIME", f"{duration_s:g}s"
        case int() as number:
            metavar, default = "N", str(number)
        case text:
            metavar, default = _METAVARS.get(option, "NAME"), str(text)
    shown = f"{shown} Default: {_DEFAULTS.get(option, default)}"
    return {"metavar": metavar, "help": shown.replace("%", "%%")}
