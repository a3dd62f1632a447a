"""The files of a sweep under pytest: the run, and the reports that are made of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ntp.errors import RecordError, not_written
from ntp.records.run import Run, write_whole
from ntp.records.run_file import save_run
from ntp.records.sole_writer import sole_writer

RUN = "run.json"
REPORTS = ("report.md", "report.csv", "report.html")


class SweepFiles:
    """The folder of a sweep's files.

    Attributes:
        folder: where they are.
        written: their names, as the terminal lists them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = "run.json, report.md, report.csv"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make sure that the files can be written, and keep other processes from writing them.

        Raises:
            RecordError: they cannot be written, or another process writes them.
        """
        for path in (self.folder / name for name in (RUN, *REPORTS)):
            if path.is_dir():
                raise RecordError(f"{path} is a folder: remove it, or choose another --ntp-report-dir")
        with sole_writer(self.folder / RUN):
            yield

    def save(self, run: Run) -> None:
        """Write the run between two rounds. Reports of an earlier sweep are removed: they are not of this run.

        Raises:
            RecordError: it cannot be written.
        """
        self._remove_reports()
        save_run(run, self.folder / RUN)

    def write(self, document: dict[str, Any], run: Run) -> None:
        """Write the run, as pytest-benchmark's document, and the reports that are made of it.

        Raises:
            RecordError: they cannot be written.
        """
        from ntp.report import text  # here, so that a pytest without benchmarks need not wait for it

        self._remove_reports()
        write_whole(self.folder / RUN, json.dumps(document, indent=1) + "\n")
        write_whole(self.folder / "report.md", text.markdown(run))
        write_whole(self.folder / "report.csv", text.csv(run))
        with suppress(KeyboardInterrupt):  # of somebody who does not want to wait for the charts, either
            self._draw(run)

    def _draw(self, run: Run) -> None:
        from ntp.report import html, sweep_charts, text

        write_whole(self.folder / "report.html", html.page(run))
        pictures = sweep_charts.pictures(run)
        for name, picture in pictures.items():
            write_whole(self.folder / name, picture)
        write_whole(self.folder / "report.md", text.markdown(run, pictures))
        self.written = "run.json, report.html, report.md with its charts, report.csv"

    def _remove_reports(self) -> None:
        from ntp.report.markdown import PICTURES

        for path in (self.folder / name for name in (*REPORTS, *(f"{name}.svg" for name in PICTURES))):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise not_written(path, error) from error
