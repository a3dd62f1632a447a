"""The record of a search for the fastest case, as one JSON file: every race, with all its samples."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from ntp.case import Amount, Case, Count, Frozen, Positive
from ntp.errors import RecordError
from ntp.records.environment import Software
from ntp.records.pairs import Comparison, Pair

Purpose = Literal["search", "without", "final"]
"""What a race is for: to find the fastest, to see what one lever of it is worth, or to compare it with the default."""

Outcome = Literal["raced", "pruned", "too large", "refused", "failed"]
"""How it ended: with pairs; given up for being much slower, or for its memory; or without a measurement."""


class Race(Frozen):
    """A case against another, in pairs of fresh processes: the base is the other, the head the case."""

    purpose: Purpose
    case_id: str
    against: str
    outcome: Outcome
    pairs: tuple[Pair, ...] = ()
    pace: Amount | None = None
    """The step time over that of the other in the warm-up, where the race was pruned."""
    peak_rss_bytes: Count | None = None
    message: str = ""
    """Why it was refused, or how it failed."""
    wall_time_s: Amount = 0.0


class Lever(Frozen):
    """A field of a case, and the values that were to be tried."""

    field: str
    values: tuple[str, ...] = Field(min_length=1)


class Tuning(Comparison):
    """A search: what it was asked, and what it measured. Its time is that of all its sessions together."""

    KIND: ClassVar[str] = "search record"

    schema_version: Count = 2
    default: str
    """The id of the case that the search starts from, and that the winner is compared with."""
    levers: tuple[Lever, ...]
    memory_limit_bytes: Positive | None = None
    software: Software | None = None
    races: tuple[Race, ...] = ()

    @property
    def task(self) -> tuple[object, ...]:
        """What two searches must have in common for one to go on where the other stopped."""
        machine = self.machine and self.machine.fingerprint
        return self.default, self.levers, self.memory_limit_bytes, machine

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a search.

        Raises:
            RecordError: the file is missing, damaged, foreign, of another version, or races another workload.
            OptionError: it names a case that makes no sense.
        """
        tuning = super().load(path)
        workload = Case.parse(tuning.default).workload
        for case_id in (case_id for race in tuning.races for case_id in (race.case_id, race.against)):
            # Whoever goes on from the file has named the default, and trusts its model's code: no other's.
            if Case.parse(case_id).workload != workload:
                raise RecordError(f"{path} is damaged: it races {case_id}, another workload than {tuning.default}")
        return tuning
