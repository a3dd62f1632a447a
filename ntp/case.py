"""What is measured: workload + step config + runtime = case. All frozen, hashable, and named by a short stable id.

An id starts with what every case has (model, batch size, sequence length, threads) and goes on with only what differs
from the defaults: ``simple-b32-s128-t2``, ``simple-b8-s64-t1-zipf:1.1-fused``. A field added later therefore never
changes the id of a case that leaves it alone. :meth:`Case.parse` turns an id back into the same case.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args
from urllib.parse import quote, unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from ntp.errors import OptionError, Untrusted
from ntp.lines import shorten

BUILT_IN_MODEL = "simple"

_MODEL_SPEC = re.compile(rf"{BUILT_IN_MODEL}|[^\s:][^:]*:[A-Za-z_]\w*")
_DATA_SPEC = re.compile(r"uniform|zipf(:(?P<exponent>\d+(\.\d+)?))?|file:.+", re.DOTALL)


def _check_name(text: str) -> None:
    """Refuse what no file can be called: a null character, or half of a character that stands for no byte of a path."""
    if "\0" in text:
        raise ValueError("a path cannot contain a null character")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("a path cannot contain half of a character") from None


def _model_spec(text: str) -> str:
    _check_name(text)
    if not _MODEL_SPEC.fullmatch(text):
        raise ValueError("expected 'simple', 'package.module:factory' or 'path/to/file.py:factory'")
    return text


def _data_spec(text: str) -> str:
    _check_name(text)
    match = _DATA_SPEC.fullmatch(text)
    if not match:
        raise ValueError("expected 'uniform', 'zipf', 'zipf:EXPONENT' or 'file:PATH'")
    if text.startswith("zipf"):
        return f"zipf:{Decimal(match['exponent'] or 1).normalize():f}"
    return text


class Frozen(BaseModel):
    """Base of every value that must never change once it is made: no unknown fields, hashable.

    Its text may be a path, or what a model says, that is not UTF-8: Python holds each such byte as half a character,
    which pydantic neither writes to JSON nor reads from it. Python's own JSON does both, as an escape.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_dump_json(self, **options: Any) -> str:
        """Write it as pydantic does, or in ASCII where pydantic cannot."""
        try:
            return super().model_dump_json(**options)
        except PydanticSerializationError:
            return json.dumps(self.model_dump(mode="json", **options))

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Read it as pydantic does, and also what :meth:`model_dump_json` wrote without pydantic.

        Raises:
            ValidationError: it is not JSON, or of another kind.
        """
        try:
            document = json.loads(json_data)
        except (ValueError, RecursionError):
            return super().model_validate_json(json_data, **options)  # knows what is wrong with it
        return cls.model_validate(document, **options)


MAX_NUMBER = 2**63 - 1
"""The largest number in a record: sums and products of a few such numbers are still finite as floats."""

Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
"""A number of things, bytes or nanoseconds."""

Positive = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
"""A number of things of which there is at least one."""

Amount = Annotated[float, Field(ge=0, le=MAX_NUMBER)]
"""A time in seconds, a rate, a mean of counts."""


class Options(Frozen):
    """Values that a user gives as options. The docstring of a field is the help of its option."""

    model_config = ConfigDict(use_attribute_docstrings=True)


PHASES = ("data", "zero_grad", "forward", "loss", "backward", "optimizer")
"""The parts of a training step, in order."""


class Workload(Options):
    """What is computed in one step.

    ``part`` narrows what is timed to a part of the step; the whole step is run all the same, so that a part is timed
    in the state in which training meets it. Only ``data`` runs alone: making a batch depends on nothing else.
    """

    model: Annotated[str, AfterValidator(_model_spec)] = BUILT_IN_MODEL
    """The model: 'simple', 'package.module:factory' or 'path/to/file.py:factory'. A factory may have the parameters
    vocab_size, embed_dim, hidden_dim and seq_len, or any of them."""
    vocab_size: Positive = 1000
    """Size of the vocabulary: token ids are below it."""
    embed_dim: Positive = 256
    """Width of the embedding."""
    hidden_dim: Positive = 1024
    """Width of the hidden layer."""
    batch_size: Positive = 32
    """Sequences per step."""
    seq_len: Positive = 128
    """Predicted positions per sequence."""
    data: Annotated[str, AfterValidator(_data_spec)] = "uniform"
    """The tokens: 'uniform' random ids, 'zipf' or 'zipf:EXPONENT' (realistic frequencies), or 'file:PATH', a text file
    read as bytes or a .bin file of uint16 tokens (uint32 if the vocabulary is larger than 65536)."""
    seed: Count = 42
    """Random seed for weights and data."""
    part: Literal["step", "data", "forward", "backward", "optimizer"] = "step"
    """The part of the step that is timed."""

    @property
    def tokens(self) -> int:
        """Positions that are predicted in one step: batch size times sequence length."""
        return self.batch_size * self.seq_len


class StepConfig(Options):
    """How the step computes it. Every field is a lever of its own; what cannot be combined is refused here.

    Whether this machine, this torch and this model can do it is found when a training starts
    (:meth:`ntp.core.step.Method.of`).
    """

    precision: Literal["fp32", "bf16", "bf16-matmul"] = "fp32"
    """'bf16' runs under autocast; 'bf16-matmul' keeps tensors in fp32 and rounds the factors of products to bf16."""
    matmul: Literal["default", "onednn"] = "default"
    """Library for fp32 matrix products: torch's own choice ('default', MKL on x86) or 'onednn'."""
    loss: Literal["full", "chunked", "deduplicated"] = "full"
    """'chunked' never holds all logits at once; 'deduplicated' runs a context-free model once for each distinct token
    of a batch."""
    compile: Literal["off", "model", "step"] = "off"
    """What torch.compile compiles: nothing ('off'), the model with its loss ('model'), or the optimizer's update, too
    ('step')."""
    optimizer: Literal["default", "foreach", "fused"] = "default"
    """AdamW implementation: 'default', 'foreach' or 'fused'."""

    @model_validator(mode="after")
    def _combinable(self) -> Self:
        if self.matmul == "onednn" and self.precision != "fp32":
            raise ValueError(
                f"onednn is for fp32 products: leave it out, precision {self.precision} uses oneDNN anyway"
            )
        if self.loss == "chunked" and self.precision == "bf16":
            raise ValueError("torch's chunked loss does not support autocast: use precision bf16-matmul, or loss full")
        if self.loss == "chunked" and self.compile != "off":
            raise ValueError("torch's chunked loss cannot be compiled: leave out compile, or use loss full")
        return self

    @property
    def exact(self) -> bool:
        """Whether it computes what the plain fp32 step does, up to the order of its sums."""
        return self.precision == "fp32"


BATCH_SIZES, SEQ_LENS = (8, 32), (64, 128)
"""What a sweep measures unless it is told otherwise, on one thread and on all."""

ONEDNN_ISA = ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
"""The environment variable, and its value, that keep oneDNN from the tiles (AMX) in which it rounds fp32 to bf16."""

EAGER = "eager"
"""The name of the step without any lever. Others are named by their levers: ``onednn+deduplicated``."""


class Runtime(Options):
    """How the machine is set up for the step's process. By default, threads wait as they do in a plain one."""

    threads: Positive = 1
    """Number of torch threads."""
    allocator: Literal["glibc-tuned", "glibc", "jemalloc", "tcmalloc", "mimalloc"] = "glibc-tuned"
    """'glibc-tuned' keeps large blocks in the heap, so that their pages are not faulted in again at every step; 'glibc'
    has its usual settings; 'jemalloc', 'tcmalloc' and 'mimalloc' are preloaded where they are installed."""
    wait_policy: Literal["unset", "passive", "active"] = "unset"
    """What idle OpenMP threads do: what OpenMP does by default ('unset': spin for a moment, then sleep), sleep at once
    ('passive'), or spin ('active')."""
    affinity: Literal["pinned", "free"] = "pinned"
    """'pinned' ties each thread to a CPU of its own; 'free' lets the kernel move them."""
    interop_threads: Positive = 1
    """Number of torch threads between operators, which a training step hardly uses."""
    huge_pages: Literal["default", "thp"] = "default"
    """'thp' makes glibc ask for transparent huge pages."""
    denormals: Literal["kept", "flushed"] = "kept"
    """Denormal numbers are 'kept', which is slow on many CPUs, or 'flushed' to zero."""

    @model_validator(mode="after")
    def _combinable(self) -> Self:
        if self.huge_pages == "thp" and not self.allocator.startswith("glibc"):
            raise ValueError(
                f"huge pages are requested through glibc: leave them out, {self.allocator} has settings of its own"
            )
        return self


_NUMBER = r"[0-9]{1,19}"
"""A number in an id. As long as any that fits 63 bits: beyond that, Python refuses what a pattern would let through."""

GROUPS: dict[str, type[Options]] = {"workload": Workload, "step": StepConfig, "runtime": Runtime}
"""What a case is made of."""


class _IdToken(NamedTuple):
    """An optional part of an id: its field, its prefix, and the pattern of its text."""

    group: str
    field: str
    prefix: str
    pattern: str


def _id_tokens() -> Iterator[_IdToken]:
    prefixes = {"vocab_size": "v", "embed_dim": "e", "hidden_dim": "h", "seed": "seed"}
    prefixes |= {"compile": "compile:", "interop_threads": "interop"}
    patterns = {"data": r"uniform|zipf:[0-9.]+|file:[^-]+"}
    for group, model in GROUPS.items():
        for field, info in model.model_fields.items():
            if field in {"model", "batch_size", "seq_len", "threads"}:
                continue
            # The longest first: one value may begin as another does.
            values = sorted(get_args(info.annotation), key=len, reverse=True)
            pattern = patterns.get(field) or "|".join(map(re.escape, values)) or _NUMBER
            yield _IdToken(group, field, prefixes.get(field, ""), pattern)


_ID_TOKENS = tuple(_id_tokens())
_ID_HEAD = re.compile(
    rf"(?P<model>[^-]+)-b(?P<batch_size>{_NUMBER})-s(?P<seq_len>{_NUMBER})-t(?P<threads>{_NUMBER})(?P<rest>.*)",
    re.DOTALL,
)

_SHOWN_OF_ID = 200
"""Characters of a malformed id that a message shows."""


def _quote(text: str) -> str:
    """Quote free text (a model spec, a path) for an id: no hyphen, no white space, bytes that are not UTF-8 kept."""
    return quote(text, safe="/:._+", errors="surrogateescape").replace("-", "%2D")


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")


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
        """Make the case with these fields, whichever of its groups they belong to. All others have their defaults.

        Raises:
            OptionError: a value is refused. Names that are no field of a case are ignored.
        """
        with option_errors():
            return cls.model_validate(
                {
                    name: {field: options[field] for field in group.model_fields if field in options}
                    for name, group in GROUPS.items()
                }
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the case that an id names.

        Raises:
            OptionError: the text is not the id of any case.
        """
        wrong = f"{shorten(text, _SHOWN_OF_ID)!r} is not a case id"
        head = _ID_HEAD.fullmatch(text)
        if not head:
            raise OptionError(f"{wrong}: write MODEL-bBATCH-sSEQLEN-tTHREADS, as in simple-b32-s128-t2")
        values: dict[str, dict[str, Any]] = {
            "workload": {
                "model": _unquote(head["model"]),
                "batch_size": int(head["batch_size"]),
                "seq_len": int(head["seq_len"]),
            },
            "step": {},
            "runtime": {"threads": int(head["threads"])},
        }
        for group, field, value in _named_options(head["rest"], wrong):
            values[group][field] = value
        with option_errors():
            return cls.model_validate(values)


def _named_options(rest: str, what_is_wrong: str) -> Iterator[tuple[str, str, str]]:
    """Yield group, field and value of each option in the rest of an id."""
    while rest:
        for group, field, prefix, pattern in _ID_TOKENS:
            if match := re.match(rf"-{prefix}({pattern})(?=-|$)", rest):
                yield group, field, _unquote(match[1]) if field == "data" else match[1]
                rest = rest[match.end() :]
                break
        else:
            raise OptionError(f"{what_is_wrong}: {shorten(rest, _SHOWN_OF_ID)!r} matches no option")


def named_step(name: str) -> StepConfig:
    """Return the step config of a name: ``eager``, or its levers, as in ``onednn+deduplicated+fused``.

    Raises:
        OptionError: a part of the name is no lever of a step, or they cannot be combined.
    """
    if name == EAGER:
        return StepConfig()
    levers = ", ".join(step_levers())
    values: dict[str, str] = {}
    for part in name.split("+"):
        token = next((token for token in _ID_TOKENS if re.fullmatch(f"{token.prefix}(?:{token.pattern})", part)), None)
        if token is None or token.group != "step":
            raise OptionError(f"no step is named {name!r}: write {EAGER!r}, or levers joined by '+': {levers}")
        if token.field in values:
            raise OptionError(f"a step named {name!r} has two values of {token.field}: leave out one")
        values[token.field] = part.removeprefix(token.prefix)
    with option_errors():
        return StepConfig.model_validate(values)


def step_levers() -> Iterator[str]:
    """Yield the names of all levers of a step config, as :func:`named_step` reads them."""
    for _, field, prefix, _ in (token for token in _ID_TOKENS if token.group == "step"):
        info = StepConfig.model_fields[field]
        yield from (f"{prefix}{value}" for value in get_args(info.annotation) if value != info.default)


def check_trusted(model: str, named: str | None, source: str) -> None:
    """Refuse to run the model that a file names, unless ntp brings it or the user has named the same.

    Args:
        model: the spec in the file.
        named: what the user gave with ``--model``.
        source: the file, as the message calls it.

    Raises:
        Untrusted: the spec is code of the file's choice.
    """
    if model not in (BUILT_IN_MODEL, named):
        raise Untrusted(
            f"{source} names the model {model!r}, whose code would be run: if you trust it, name it with --model"
        )


@contextmanager
def option_errors() -> Iterator[None]:
    """Turn what pydantic refuses inside the block into one line: the option, what is wrong with it, and the value.

    Raises:
        OptionError: in place of pydantic's ValidationError.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][-1]).replace("_", "-") if first["loc"] else "the case"
        # What refuses a combination is given all fields: it names those that matter itself.
        given = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise OptionError(f"{option}: {first['msg'].removeprefix('Value error, ')}{given}") from error
