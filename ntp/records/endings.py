"""The state of a process after a block of steps, which is read when the block is over and disturbs no step."""

import math
from typing import Annotated

from pydantic import Field, PlainSerializer

from ntp.case import Count, Frozen

PRODUCTS = "precision of fp32 products"
"""The setting that some step configs change themselves."""

Loss = Annotated[
    float,
    Field(allow_inf_nan=True),
    PlainSerializer(lambda loss: loss if math.isfinite(loss) else str(loss), when_used="json"),
]
"""In nats. JSON has no infinity and no NaN: they are text there."""


class SettingChange(Frozen):
    """A process-wide setting that has changed since before the model was built."""

    name: str
    """One of :func:`ntp.core.settings.read_settings`."""
    before: str
    after: str


class Ending(Frozen):
    """The state of a process after a block of steps. Unknown values are null."""

    loss: Loss | None = None
    """The loss of the last step."""
    anonymous_bytes: Count | None = None
    """The resident memory of the process that no file backs."""
    settings: tuple[SettingChange, ...] = ()
    """The settings that have changed."""
