"""The record of a race: its contestants, what a step of each does, and every pair of processes, as one JSON file."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from ntp.case import Amount, Count, Frozen
from ntp.records.environment import Software
from ntp.records.pairs import Comparison, Counts, Looks, Pair, Side


class Contestant(Frozen):
    """What is raced: a case, with the code of a commit and the libraries of an interpreter, where these are named."""

    name: str
    """As the user named it: ``threads=2``."""
    case_id: str
    side: Side | None = None
    """The commit whose code it runs. Null: that of the current folder, as it is."""
    interpreter: str = ""
    """Its Python, or the torch that its environment was made for, as the user named it. Empty: that which runs ntp."""
    software: Software | None = None
    counts: Counts | None = None
    failure: str = ""
    """Why it could not be run."""
    stderr_tail: str = ""


class Duel(Frozen):
    """The pairs of two contestants, whose names tell which is the base of all pairs, and which the head."""

    base: str
    head: str
    pairs: tuple[Pair, ...] = ()
    wall_time_s: Amount = 0.0


class RacePlan(Looks):
    """What was settled before the first pair."""

    precision: float = Field(0.01, gt=0, lt=1)
    """Contestants that are known to differ by less than this share a place."""
    min_pairs: int = Field(3, ge=2, le=1000)
    """Most differences between contestants are large: they show after few pairs."""


class RaceRecord(Comparison):
    """A race: what was asked, and what was measured."""

    KIND: ClassVar[str] = "race record"

    schema_version: Count = 1
    plan: RacePlan
    contestants: tuple[Contestant, ...] = Field(min_length=2, max_length=8)
    duels: tuple[Duel, ...] = ()

    @model_validator(mode="after")
    def _of_its_contestants(self) -> Self:
        names = [contestant.name for contestant in self.contestants]
        if len(set(names)) < len(names):
            raise ValueError("two contestants have the same name")
        couples = [frozenset((duel.base, duel.head)) for duel in self.duels]
        if any(len(couple) < 2 or not couple <= set(names) for couple in couples) or len(set(couples)) < len(couples):
            raise ValueError("each duel is one of two of the contestants, and no other has the same two")
        return self
