"""What is measured: workload + step config + runtime = case. All frozen, hashable, and named by a short stable id.

An id starts with what every case has (model, batch size, sequence length, threads) and goes on with only what differs
from the defaults: ``simple-b32-s128-t2``, ``simple-b8-s64-t1-zipf:1.1-fused``. A field added later therefore never
changes the id of a case that leaves it alone. :meth:`Case.parse` turns an id back into the same case.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args
from urllib.parse import quote, unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ntp.errors import OptionError

_MODEL_SPEC = re.compile(r"simple|[^\s:][^:]*:[A-Za-z_]\w*")
_DATA_SPEC = re.compile(r"uniform|zipf(:(?P<exponent>\d+(\.\d+)?))?|file:.+", re.DOTALL)


def _model_spec(text: str) -> str:
    if not _MODEL_SPEC.fullmatch(text):
        raise ValueError("a model is 'simple', 'package.module:factory' or 'path/to/file.py:factory'")
    return text


def _data_spec(text: str) -> str:
    match = _DATA_SPEC.fullmatch(text)
    if not match:
        raise ValueError("data is 'uniform', 'zipf', 'zipf:EXPONENT' or 'file:PATH'")
    if text.startswith("zipf"):
        return f"zipf:{Decimal(match['exponent'] or 1).normalize():f}"
    return text


class Frozen(BaseModel):
    """Base of every value that must never change once it is made: no unknown fields, hashable."""

    model_config = ConfigDict(frozen=True, extra="forbid")


PHASES = ("data", "zero_grad", "forward", "loss", "backward", "optimizer")
"""The parts of a training step, in order."""


class Workload(Frozen):
    """What is computed in one step.

    ``part`` narrows what is timed to a part of the step; the whole step is run all the same, so that a part is timed
    in the state in which training meets it. Only ``data`` runs alone: making a batch depends on nothing else.
    """

    model: Annotated[str, AfterValidator(_model_spec)] = "simple"
    vocab_size: int = Field(1000, ge=1)
    embed_dim: int = Field(256, ge=1)
    hidden_dim: int = Field(1024, ge=1)
    batch_size: int = Field(32, ge=1)
    seq_len: int = Field(128, ge=1)
    data: Annotated[str, AfterValidator(_data_spec)] = "uniform"
    seed: int = Field(42, ge=0, lt=2**63)
    part: Literal["step", "data", "forward", "backward", "optimizer"] = "step"

    @property
    def tokens(self) -> int:
        """Positions that are predicted in one step: batch size times sequence length."""
        return self.batch_size * self.seq_len


class StepConfig(Frozen):
    """How the step computes it."""

    precision: Literal["fp32"] = "fp32"
    optimizer: Literal["default", "foreach", "fused"] = "default"


BATCH_SIZES, SEQ_LENS = (8, 32), (64, 128)
"""What a sweep takes unless it is told otherwise, on one thread and on all."""

STEP_PRESETS: dict[str, StepConfig] = {"eager": StepConfig()}
"""The step configs that have a name of their own on the command line."""


class Runtime(Frozen):
    """How the machine is set up for the process that runs the step. The defaults are the quiet ones.

    ``allocator=glibc-tuned`` keeps large blocks in the heap, so that their pages are not faulted in anew every step;
    ``wait_policy=passive`` puts idle OpenMP threads to sleep; ``affinity=pinned`` gives each thread a CPU.
    """

    threads: int = Field(1, ge=1)
    allocator: Literal["glibc-tuned", "glibc"] = "glibc-tuned"
    wait_policy: Literal["passive", "active"] = "passive"
    affinity: Literal["pinned", "free"] = "pinned"


_NUMBER = r"[0-9]{1,19}"
"""A number in an id. As long as any that fits 63 bits: beyond that, Python refuses what a pattern would let through."""


class _IdToken(NamedTuple):
    """One optional piece of an id: whose field it is, what it starts with, and what its text looks like."""

    group: str
    field: str
    prefix: str
    pattern: str


def _id_tokens() -> Iterator[_IdToken]:
    prefixes = {"vocab_size": "v", "embed_dim": "e", "hidden_dim": "h", "seed": "seed"}
    patterns = {"data": r"uniform|zipf:[0-9.]+|file:[^-]+"}
    for group, model in (("workload", Workload), ("step", StepConfig), ("runtime", Runtime)):
        for field, info in model.model_fields.items():
            if field in {"model", "batch_size", "seq_len", "threads"}:
                continue
            pattern = (
                patterns.get(field) or "|".join(re.escape(value) for value in get_args(info.annotation)) or _NUMBER
            )
            yield _IdToken(group, field, prefixes.get(field, ""), pattern)


_ID_TOKENS = tuple(_id_tokens())
_ID_HEAD = re.compile(
    rf"(?P<model>[^-]+)-b(?P<batch_size>{_NUMBER})-s(?P<seq_len>{_NUMBER})-t(?P<threads>{_NUMBER})(?P<rest>.*)",
    re.DOTALL,
)


def _quote(text: str) -> str:
    """Free text (a model spec, a path) inside an id: no hyphen, no white space."""
    return quote(text, safe="/:._+").replace("-", "%2D")


class Case(Frozen):
    """Workload + step config + runtime: the unit that is measured."""

    workload: Workload = Workload()
    step: StepConfig = StepConfig()
    runtime: Runtime = Runtime()

    @property
    def id(self) -> str:
        """The short stable name, e.g. ``simple-b32-s128-t2``."""
        workload = self.workload
        head = f"{_quote(workload.model)}-b{workload.batch_size}-s{workload.seq_len}-t{self.runtime.threads}"
        return "-".join([head, *self._differences()])

    def _differences(self) -> Iterator[str]:
        for group, field, prefix, _ in _ID_TOKENS:
            values = getattr(self, group)
            value = getattr(values, field)
            if value != type(values).model_fields[field].default:
                yield prefix + (_quote(value) if field == "data" else str(value))

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Self:
        """The case with these fields, whichever of its three groups each belongs to. What is not given has its default.

        Raises:
            OptionError: a value is refused. Names that are no field of a case are passed over.
        """
        groups: dict[str, type[Frozen]] = {"workload": Workload, "step": StepConfig, "runtime": Runtime}
        with option_errors():
            return cls.model_validate(
                {
                    name: {field: options[field] for field in group.model_fields if field in options}
                    for name, group in groups.items()
                }
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The case that an id names.

        Raises:
            OptionError: the text is not the id of any case.
        """
        head = _ID_HEAD.fullmatch(text)
        if not head:
            raise OptionError(
                f"{text!r} is not a case id: write MODEL-bBATCH-sSEQLEN-tTHREADS, as in simple-b32-s128-t2"
            )
        values: dict[str, dict[str, Any]] = {
            "workload": {
                "model": unquote(head["model"]),
                "batch_size": int(head["batch_size"]),
                "seq_len": int(head["seq_len"]),
            },
            "step": {},
            "runtime": {"threads": int(head["threads"])},
        }
        rest = head["rest"]
        while rest:
            for group, field, prefix, pattern in _ID_TOKENS:
                if match := re.match(rf"-{prefix}({pattern})(?=-|$)", rest):
                    values[group][field] = unquote(match[1]) if field == "data" else match[1]
                    rest = rest[match.end() :]
                    break
            else:
                raise OptionError(f"{text!r} is not a case id: {rest!r} names no option")
        with option_errors():
            return cls.model_validate(values)


class option_errors:  # noqa: N801  (a context manager reads as a verb phrase)
    """Context manager: what pydantic refuses inside it leaves as one line, an :class:`~ntp.errors.OptionError`."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        """Turn a refusal into one line: the option, what it wants, and the value given."""
        if isinstance(exc, ValidationError):
            first = exc.errors()[0]
            option = str(first["loc"][-1]).replace("_", "-") if first["loc"] else "the case"
            raise OptionError(
                f"{option}: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r})"
            ) from exc
