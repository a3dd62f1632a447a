"""Text from elsewhere (a model's error, a path, a worker's output) as lines to show: short, and printable."""

TAIL_LINES = 12
LINE_CHARACTERS = 500
MESSAGE_CHARACTERS = 1000


def printable(line: str) -> str:
    r"""The line with spaces for tabs, and what a terminal cannot print, or would obey, escaped.

    ``\x1b`` is the start of a colour, ``\udcff`` the byte 0xff of a path that is not UTF-8.
    """
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in line.expandtabs())


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """The text on one printable line."""
    return printable(" ".join(text.split()))


def first_line(error: BaseException) -> str:
    """The first line of what an exception says. One that a model defines may be unable to say anything."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (whatever a model's own exception does)
        text = ""
    return next(iter(text.strip().splitlines()), "no message")


def last_lines(output: str) -> str:
    """The last lines that a process wrote, each shortened: enough for the last calls of a traceback."""
    lines = output.strip().splitlines()[-TAIL_LINES:]
    return "\n".join(shorten(printable(line), LINE_CHARACTERS) for line in lines)


def shorten(text: str, width: int) -> str:
    """The text with its middle left out, where it is longer than ``width`` characters."""
    if len(text) <= width:
        return text
    head = max(0, width - 3) // 2
    tail = max(0, width - 3 - head)
    return f"{text[:head]}...{text[len(text) - tail :]}"[:width]


def as_utf8(text: str) -> str:
    """The text to be stored: what is not UTF-8, and which Python holds as lone surrogates, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def in_encoding(text: str, encoding: str | None) -> str:
    """The text as a stream with this encoding can show it, its columns where they were."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        # The cells of a table are two spaces apart: one of them gives way to the longer sign.
        plain = text.replace(" \N{PLUS-MINUS SIGN}", "+-").replace("\N{MICRO SIGN}", "u")
        return plain.encode("ascii", "backslashreplace").decode("ascii")
    return text
