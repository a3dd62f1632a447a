"""Private parts of torch, looked up by name. If this torch lacks one, the error says so in one line."""

from typing import Any

import torch

from ntp.errors import TorchError


def part_of(owner: object, path: str, owners_name: str = "torch") -> Any:
    """Look up a dotted name in an object of torch, such as ``_C._profiler._EventType``.

    Raises:
        TorchError: this torch has no such attribute.
    """
    part = owner
    for name in path.split("."):
        try:
            part = getattr(part, name)
        except AttributeError:
            raise TorchError(
                f"this torch ({torch.__version__}) has no {owners_name}.{path}, which this needs: install the torch "
                "that ntp is tested with (ntp doctor names it)"
            ) from None
    return part
