"""What a guard saw, as one JSON file: every count and every sample, so that its verdict can be reached again."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, ValidationError

from ntp.case import Frozen
from ntp.errors import RecordError

SCHEMA_VERSION = 1

SideName = Literal["base", "head"]


class Side(Frozen):
    """One side of a comparison."""

    ref: str
    """As it was asked for."""
    commit: str
    """The full hash."""
    dirty: bool = False
    """Whether tracked files differ from the commit. Only the work tree can be dirty."""


class Counts(Frozen):
    """What one step does, counted. The same code gives the same counts."""

    parameters: int
    flops: int
    operators: tuple[tuple[str, float], ...]
    """Calls a step by name, sorted by it."""
    allocated_bytes: float
    peak_tensor_bytes: int


class Block(Frozen):
    """Steps of one side, one after the other."""

    side: SideName
    step_time_ns: tuple[int, ...] = Field(min_length=1)


class Pair(Frozen):
    """A fresh process of each side, run in turn on the same CPUs."""

    case_id: str
    seed: int
    """Of the order of the turns."""
    blocks: tuple[Block, ...] = Field(min_length=2)
    """In the order in which they were run."""

    def samples(self, side: SideName) -> tuple[int, ...]:
        """All step times of one side, in order."""
        return tuple(time_ns for block in self.blocks if block.side == side for time_ns in block.step_time_ns)


class Cell(Frozen):
    """One case on both sides."""

    case_id: str
    base: Counts | None = None
    head: Counts | None = None
    pairs: tuple[Pair, ...] = ()
    base_failure: str = ""
    """Why the base has no such case: then there is nothing to compare with."""
    failure: str = ""
    """Why the head could not run it, or which side of a pair was lost, and how: a failure, and no verdict."""
    wall_time_s: float = 0.0
    """Spent on this case, counting and pairs."""


class GuardRecord(Frozen):
    """A guard's run: what it was asked, and what it saw."""

    schema_version: int = SCHEMA_VERSION
    started: str
    """ISO 8601, UTC."""
    wall_time_s: float
    command: tuple[str, ...]
    base: Side
    head: Side
    threshold: float = Field(gt=0, lt=1)
    budget_s: float = Field(gt=0)
    seed: int
    allowed: tuple[str, ...] = ()
    """Names of counts that may rise."""
    cells: tuple[Cell, ...] = Field(min_length=1)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            RecordError: the file is missing, damaged, foreign, or of another version.
        """
        try:
            text = path.read_text(encoding="utf-8")
            version = _Header.model_validate_json(text).schema_version
            if version == SCHEMA_VERSION:
                return cls.model_validate_json(text)
        except OSError as error:
            raise RecordError(f"{path} cannot be read ({error.strerror}): give what --json wrote") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise RecordError(
                f"{path} is no guard's record: {where}: {first['msg']}; give what --json wrote"
            ) from error
        except ValueError as error:
            raise RecordError(f"{path} is no text ({error}): give what --json wrote") from error
        raise RecordError(f"{path} has schema version {version}, this ntp reads {SCHEMA_VERSION}: upgrade ntp")


class _Header(BaseModel):
    """What a record of any version has."""

    schema_version: int
