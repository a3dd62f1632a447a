"""Parts of torch that it promises nobody, looked up by name: one that a torch lacks is said in one line."""

from typing import Any

import torch

from ntp.errors import TorchError


def part_of(owner: object, path: str, owners_name: str = "torch") -> Any:
    """What an object of torch's has under a dotted name, as ``_C._profiler._EventType``.

    Raises:
        TorchError: this torch has no such thing.
    """
    found = owner
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise TorchError(
                f"this torch ({torch.__version__}) has no {owners_name}.{path}, which this needs: take the torch that "
                "ntp is tested with; ntp doctor names it"
            ) from None
    return found
