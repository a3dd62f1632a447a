"""What every comparison in pairs records: pairs of processes with all their samples, the exact counts of a step, the
commits compared; and what is said once of each comparison.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ntp.case import Amount, Count, Frozen, Positive
from ntp.records.endings import Ending
from ntp.records.environment import Machine, Software
from ntp.records.run import Command, read_versioned

SideName = Literal["base", "head"]

WORK_TREE = "worktree"
"""This name in place of a ref means the work tree as it is, with its uncommitted changes."""


class Preparation(Frozen):
    """How the user's own command ended that was run in a side's tree before any worker was started."""

    command: str
    status: Annotated[int, Field(ge=-255, le=255)]
    """Its exit status, or minus the number of the signal that ended it."""
    output: str
    """The end of what it printed."""
    wall_time_s: Amount


class Side(Frozen):
    """One side of a comparison."""

    ref: str
    """The side as the user named it."""
    commit: str
    """The full hash."""
    dirty: bool = False
    """Whether tracked files differ from the commit. Only the work tree can be dirty."""
    brings_ntp: bool = False
    """Whether its tree has an ntp of its own. If not, its workers import the one that is installed."""
    software: Software | None = None
    """The software of its workers: even where one interpreter runs both sides, each may bring libraries of its own."""
    loaded: tuple[str, ...] | None = None
    """The repository's files that its workers imported, seen from its top. Null if none of them could say."""
    preparation: Preparation | None = None


class Counts(Frozen):
    """What one step does, counted: the same code gives the same counts. None where nobody counted."""

    parameters: Count
    flops: Count | None
    operators: tuple[tuple[str, Amount], ...] | None
    """Calls a step by name, sorted by it."""
    allocated_bytes: Amount | None
    peak_tensor_bytes: Count | None

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the counts that nobody counted."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is None)


MAX_RATIO = math.exp(20)
"""The largest ratio of step times in a pair. Nothing that ran on both sides is slower on one by such a factor."""


Clock = Literal["wall", "cpu"]
"""The clocks of a step: the time that goes by, and the CPU time of the thread that runs the step. The second leaves out
all waiting: for other threads, for the disk, for a CPU."""


class Block(Frozen):
    """Steps of one side, one after the other."""

    side: SideName
    step_time_ns: tuple[Positive, ...] = Field(min_length=1)
    step_cpu_ns: tuple[Count, ...] = ()
    """The CPU time of each step's main thread. Empty where nobody measured it."""
    cpu: Count | None = None
    """The CPU that the main thread was moved to first. Null: it stayed where it was."""
    shared: bool = False
    """Whether the other side ran at the same time on the same CPUs. Then the CPU time alone says how long it takes."""

    def times_ns(self, clock: Clock) -> tuple[int, ...]:
        """The time of each step on one of the clocks, as a divisor of ratios: at least 1 ns. Empty if not measured."""
        return self.step_time_ns if clock == "wall" else tuple(max(1, time_ns) for time_ns in self.step_cpu_ns)


class Pair(Frozen):
    """A fresh process of each side, run in rounds of a block of each: in turn, or at the same time."""

    case_id: str
    seed: Count
    """Random seed of the order of the blocks."""
    together: bool = False
    """Whether both sides ran at the same time, each on a CPU of its own. Every second round they began on swapped
    CPUs."""
    blocks: tuple[Block, ...] = Field(min_length=2)
    """In the order in which they were run."""
    endings: tuple[tuple[SideName, Ending], ...] = ()
    """How its last block left each side. Empty in records of an older ntp."""

    @model_validator(mode="after")
    def _in_rounds(self) -> Self:
        blocks = Counter(block.side for block in self.blocks)
        if blocks["base"] != blocks["head"]:
            raise ValueError(f"{blocks['base']} blocks of the base and {blocks['head']} of the head")
        times_ns = [time_ns for block in self.blocks for time_ns in block.step_time_ns]
        if max(times_ns) > MAX_RATIO * min(times_ns):
            raise ValueError(f"no step_time_ns can be {min(times_ns)} where another is {max(times_ns)}")
        return self

    @property
    def rounds(self) -> tuple[tuple[Block, Block], ...]:
        """The blocks of base and head in each round."""
        base, head = ([block for block in self.blocks if block.side == side] for side in ("base", "head"))
        return tuple(zip(base, head, strict=True))

    @property
    def has_shared_rounds(self) -> bool:
        """Whether the sides ran on the same CPUs at the same time in some rounds."""
        return any(block.shared for block in self.blocks)

    def rounds_on(self, clock: Clock) -> tuple[tuple[Block, Block], ...]:
        """The rounds that say something on a clock: on the wall clock those on CPUs that were not shared, of the CPU
        time those on shared ones, if there are any, since what disturbs them disturbs both sides alike.
        """
        shared, others = ([both for both in self.rounds if both[0].shared == kind] for kind in (True, False))
        return tuple(shared or others if clock == "cpu" else others)

    def endings_of(self, side: SideName) -> list[Ending]:
        """How each of its blocks left one side, in order."""
        return [ending for name, ending in self.endings if name == side]

    def samples(self, side: SideName) -> tuple[int, ...]:
        """The times of one side's steps on CPUs that were not shared, in order."""
        blocks = (block for block in self.blocks if block.side == side and not block.shared)
        return tuple(time_ns for block in blocks for time_ns in block.step_time_ns)


class Looks(Frozen):
    """When the pairs of two sides are looked at. It is settled before the first pair: none may change it."""

    alpha: float = Field(0.05, ge=1e-6, lt=0.5)
    """The probability allowed of a false verdict anywhere."""
    min_pairs: int = Field(5, ge=2, le=1000)
    """The first look comes after this many pairs. From fewer, the spread is hardly known."""
    max_pairs: int = Field(20, ge=2, le=1000)
    """The last look comes after this many pairs. With fewer, each look costs less, and a noisy case can get less."""

    @model_validator(mode="after")
    def _looked_at(self) -> Self:
        if self.max_pairs < self.min_pairs:
            raise ValueError(f"at most {self.max_pairs} pairs are fewer than the {self.min_pairs} of the first look")
        return self


class Comparison(Frozen):
    """A comparison in pairs, as one JSON file: what all kinds of it keep."""

    KIND: ClassVar[str]
    """What the file is called in messages: ``guard record``."""

    schema_version: Count
    started: str
    """ISO 8601, UTC."""
    wall_time_s: Amount
    command: Command
    budget_s: Amount = Field(gt=0)
    seed: Count
    machine: Machine | None = None

    def text(self, verdict: Mapping[str, object]) -> str:
        """Write the record as the text of its file, with its verdict for others to read: :meth:`load` ignores that."""
        return json.dumps({"verdict": verdict, **self.model_dump(mode="json")}) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            RecordError: the file is missing, damaged, foreign, or of another version.
        """
        version = cls.model_fields["schema_version"].default
        return read_versioned(path, cls, cls.KIND, version, without=("verdict",))
