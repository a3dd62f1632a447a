"""ntp: know how fast a next-token model trains on a CPU, why, and whether a change made it slower."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntp.case import StepConfig as StepConfig
    from ntp.case import Workload as Workload
    from ntp.core.data import token_batches as token_batches
    from ntp.core.losses import next_token_loss as next_token_loss
    from ntp.core.model import SimpleNextTokenModel as SimpleNextTokenModel
    from ntp.core.predict import generate as generate
    from ntp.core.predict import load_trained as load_trained
    from ntp.core.step import Training as Training
    from ntp.core.step import train_step as train_step
    from ntp.core.train import TrainingRun as TrainingRun

__version__ = "0.1.0"

_MODULES = {
    "SimpleNextTokenModel": "ntp.core.model",
    "StepConfig": "ntp.case",
    "Training": "ntp.core.step",
    "TrainingRun": "ntp.core.train",
    "Workload": "ntp.case",
    "generate": "ntp.core.predict",
    "load_trained": "ntp.core.predict",
    "next_token_loss": "ntp.core.losses",
    "token_batches": "ntp.core.data",
    "train_step": "ntp.core.step",
}
"""Where each entry point is defined. It is imported when it is first used: ``import ntp`` must not load torch."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
