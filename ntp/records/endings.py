"""How a stretch of steps left the process: what is read once it is over, so that no step is disturbed."""

import math
from typing import Annotated

from pydantic import Field, PlainSerializer

from ntp.case import Count, Frozen

PRODUCTS = "precision of fp32 products"
"""The setting that some steps set themselves."""

Loss = Annotated[
    float,
    Field(allow_inf_nan=True),
    PlainSerializer(lambda loss: loss if math.isfinite(loss) else str(loss), when_used="json"),
]
"""In nats. JSON has no infinity and nothing that is not a number: they are text there."""


class SettingChange(Frozen):
    """A setting of the whole process that is another than before the model was built."""

    name: str
    """As of :func:`ntp.core.settings.read_settings`."""
    before: str
    after: str


class Ending(Frozen):
    """How a stretch of steps left the process. What is not known is null."""

    loss: Loss | None = None
    """Of its last step."""
    anonymous_bytes: Count | None = None
    """The resident memory of the process that no file backs."""
    settings: tuple[SettingChange, ...] = ()
    """Which are another by then."""
