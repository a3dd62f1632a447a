"""In what two machines, or the software on two, differ: then their times compare those, and not the code."""

from collections.abc import Mapping

from ntp.records.environment import Machine, Software


def differences(base: Machine | Software, head: Machine | Software) -> tuple[str, ...]:
    """Name the fields that make the fingerprints of two machines, or of two software, differ, with their values."""
    before, after = _flat(base.identity), _flat(head.identity)
    return tuple(
        _words(name, before.get(name), after.get(name))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    )


def _flat(identity: Mapping[str, object]) -> dict[str, object]:
    """Put the fields of a field that has some (``torch_build``) in its place."""
    flat: dict[str, object] = {}
    for field, value in identity.items():
        if isinstance(value, Mapping):
            flat |= {f"{field}.{name}": inner for name, inner in value.items()}
        else:
            flat[field] = value
    return flat


def _words(name: str, base: object, head: object) -> str:
    if isinstance(base, list) and isinstance(head, list):
        return f"other {name}"  # a list of caches or libraries would say it at length
    values = ("unknown" if value is None else "known" if isinstance(value, list) else value for value in (base, head))
    return f"{name} {' -> '.join(map(str, values))}"
