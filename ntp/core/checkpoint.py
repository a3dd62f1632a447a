"""Checkpoints: one file in a directory, from which a run continues as if it had never stopped."""

import errno
import os
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ConfigDict, InstanceOf, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from ntp.case import Count, Frozen, StepConfig, Workload
from ntp.core.step import Training
from ntp.errors import CheckpointError, refusal
from ntp.files import replacing, try_to_write
from ntp.lines import one_line, shorten

FILE_NAME = "checkpoint.pt"
FORMAT = 1


class RunConfig(Frozen):
    """What a run computes. A run continues only from a checkpoint of an equal config."""

    workload: Workload
    step: StepConfig


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Checkpoint:
    """A run between two steps: its config, the number of steps, and every state that its next step depends on.

    State that a user's model keeps outside its ``state_dict`` and torch's global generator is not saved.
    """

    config: RunConfig
    step: Count
    model: InstanceOf[dict[str, Any]]  # the object itself, not a copy: torch stores versions in an attribute
    optimizer: InstanceOf[dict[str, Any]]
    global_rng: InstanceOf[Tensor]
    data_rng: InstanceOf[Tensor]

    @classmethod
    def of(cls, training: Training, config: RunConfig, step: int) -> Self:
        """Capture the state of ``training`` after ``step`` steps. The tensors are not copied: save it at once."""
        return cls(
            config=config,
            step=step,
            model=training.model.state_dict(),
            optimizer=training.optimizer.state_dict(),
            global_rng=torch.get_rng_state(),
            data_rng=training.generator.get_state(),
        )

    def restore(self, training: Training) -> None:
        """Load this state into ``training`` and torch's global generator.

        Raises:
            CheckpointError: the model has changed since.
        """
        try:
            training.model.load_state_dict(self.model)
            training.optimizer.load_state_dict(self.optimizer)
            training.generator.set_state(self.data_rng)
            torch.set_rng_state(self.global_rng)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise self.mismatch(exc) from exc

    def mismatch(self, exc: Exception) -> CheckpointError:
        """Return the error for a state that does not fit the model that the spec builds now."""
        detail = shorten(one_line(str(exc)), 200)
        return CheckpointError(
            f"the checkpoint does not fit model {self.config.workload.model!r}, whose code has changed since: {detail}"
        )


def prepare(directory: Path) -> None:
    """Check that a checkpoint can be written to the directory, now rather than after an hour of training.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        try_to_write(directory / FILE_NAME)
    except OSError as exc:
        raise CheckpointError(
            f"checkpoint {str(directory / FILE_NAME)!r} cannot be written: {exc.strerror or exc}; "
            "name another directory"
        ) from exc


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint atomically: whatever happens, the directory contains the complete old or new one.

    Raises:
        CheckpointError: it cannot be written.
    """
    content = {field: getattr(checkpoint, field) for field in ("step", "model", "optimizer", "global_rng", "data_rng")}
    content |= {"format": FORMAT, "config": checkpoint.config.model_dump_json()}
    try:
        with replacing(directory / FILE_NAME) as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        _sync(directory)  # the new name must survive a power cut, too
    except (OSError, RuntimeError) as exc:  # torch's writer reports a full disk as a RuntimeError
        why = exc.strerror if isinstance(exc, OSError) else "the disk is probably full"
        raise CheckpointError(
            f"checkpoint in {str(directory)!r} cannot be written completely: {why or exc}; the previous one is intact: "
            "free disk space, and run the same command again to continue"
        ) from (exc if isinstance(exc, OSError) else OSError(errno.ENOSPC, str(exc)))


def exists(directory: Path) -> bool:
    """Return whether the directory contains a checkpoint, complete or damaged."""
    return (directory / FILE_NAME).exists()


def load(directory: Path) -> Checkpoint:
    """Read the checkpoint in the directory without running any code in it (``weights_only=True``).

    Raises:
        CheckpointError: it is missing, damaged, or of a newer version.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"no checkpoint in {str(directory)!r}: make one with ntp train --checkpoint {directory}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("format") != FORMAT:
            raise CheckpointError(
                f"checkpoint {str(path)!r} was written by another version of ntp: train again, in another directory"
            )
        config = RunConfig.model_validate_json(content.pop("config"))
        return Checkpoint(config=config, **content)
    except CheckpointError:
        raise
    except ValidationError as exc:
        raise CheckpointError(
            f"checkpoint {str(path)!r} is damaged: {refusal(exc)}; delete it, or name another directory"
        ) from exc
    except Exception as exc:  # torch, zipfile, pickle and pydantic raise different ones
        raise CheckpointError(
            f"checkpoint {str(path)!r} is damaged or was not written by ntp ({type(exc).__name__}): "
            "delete it, or name another directory"
        ) from exc


def check_same_run(saved: RunConfig, asked: RunConfig, directory: Path) -> None:
    """Refuse to continue from another run's checkpoint.

    Raises:
        CheckpointError: an option differs. The message names all that do.
    """
    before, now = _flat(saved), _flat(asked)
    differences = [f"{name}: {before[name]!r} there, {now[name]!r} here" for name in now if before[name] != now[name]]
    if differences:
        raise CheckpointError(
            f"the checkpoint in {str(directory)!r} belongs to another run ({'; '.join(differences)}): "
            "use its options, or another directory"
        )


def _flat(config: RunConfig) -> dict[str, Any]:
    return config.workload.model_dump() | config.step.model_dump()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
