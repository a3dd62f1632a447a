"""What a sweep says on standard error while pytest captures it: above all the line that says how far it is."""

import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import pytest

from ntp.lines import in_encoding, one_line

_ERASE = "\r\x1b[K"


def uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """Lift pytest's capture within the block."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else nullcontext()


def tell_uncaptured(config: pytest.Config, message: str) -> None:
    """Write a line to standard error, wherever that leads."""
    with uncaptured(config):
        sys.stderr.write(f"ntp: {message}\n")


class ProgressLine:
    """A line on standard error that is rewritten, and erased in the end. Where that is no terminal, there is none."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._is_shown:
            self._write(_ERASE)
            self._is_shown = False

    def show(self, message: str) -> None:
        """Replace the line."""
        width = shutil.get_terminal_size().columns - 1  # a longer line would be two, of which one is erased
        self._write(f"{_ERASE}ntp: {one_line(message)}"[: len(_ERASE) + width])

    def _write(self, text: str) -> None:
        with uncaptured(self._config):
            if not sys.stderr.isatty():
                return
            if not self._is_shown and (reporter := self._config.pluginmanager.get_plugin("terminalreporter")):
                reporter.ensure_newline()  # the name of the file, and the signs of tests before this one, stay
            sys.stderr.write(in_encoding(text, sys.stderr.encoding))
            sys.stderr.flush()
            self._is_shown = True
