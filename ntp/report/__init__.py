"""Records and verdicts in, text and pictures out. No measuring."""

import os

if os.path.expanduser("~") == "~":
    os.environ["HOME"] = os.devnull  # altair asks for a home directory when it is imported, and needs none
