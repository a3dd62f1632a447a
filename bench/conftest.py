"""What is collected here."""

from pathlib import Path

LONG = {"bench_scaling.py"}
"""Benchmarks that run only if their file is named: they are no part of the sweep that everybody runs."""


def pytest_ignore_collect(collection_path, config):
    named = {Path(argument.partition("::")[0]).name for argument in config.args}
    return True if collection_path.name in LONG - named else None
