"""The environments that ``ntp race`` has made, each with another torch."""

from collections.abc import Sequence

from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.units import size
from ntp.report.verdicts import counted

Made = tuple[str, str, Sequence[str], int]
"""Its name, its torch, what was asked for besides, and its size in bytes."""

COLUMNS = (
    Column[Made]("environment", lambda made: made[0], is_code=True),
    Column[Made]("torch", lambda made: made[1]),
    Column[Made]("with", lambda made: ", ".join(made[2]) or None),
    Column[Made]("size", lambda made: made[3], size),
)


def report(environments: Sequence[Made]) -> Report:
    if not environments:
        return Report(["No environments: ntp race makes one for each torch==VERSION that it is given."])
    total = sum(made[3] for made in environments)
    answer = f"{counted(len(environments), 'environment')}, {size(total)}: --remove NAME removes one, --remove all all."
    return Report([answer], [Table(COLUMNS, environments)])
