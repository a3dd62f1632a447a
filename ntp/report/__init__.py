"""Turns records and verdicts into text, charts and pages. Measures nothing."""

import os

if os.path.expanduser("~") == "~":
    os.environ["HOME"] = os.devnull  # altair asks for a home directory when it is imported, and needs none
