"""How commands that measure for minutes keep what they have: each state of a record replaces the one before it."""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

Record = TypeVar("Record")


def keep(records: Generator[Record, None, None], out: Path, text: Callable[[Record], str], judging: str) -> Record:
    """Write each record in place of the one before it, and return the last.

    Args:
        records: at least one.
        out: the file.
        text: that of a record.
        judging: the command that judges the file, which is told if a signal ends the measurement.
    """
    from ntp.records.run import write_whole

    record = None
    try:
        with closing(records):
            for record in records:
                write_whole(out, text(record))
    except KeyboardInterrupt as stop:
        if record is not None:
            stop.add_note(f"; what was measured is kept: {judging} {out} judges it")
        raise
    assert record is not None
    return record
