"""Text from elsewhere (a model's error, a path, a worker's output) as lines to show: short, and only printed."""

TAIL_LINES = 12
LINE_CHARACTERS = 500
MESSAGE_CHARACTERS = 1000


def printable(line: str) -> str:
    r"""The line, with what a terminal cannot print, or would obey, escaped.

    ``\x1b`` is the start of a colour, ``\udcff`` the byte 0xff of a path that is not UTF-8.
    """
    return line if line.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in line)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def as_utf8(text: str) -> str:
    """The text, with the halves of characters escaped that Python makes of bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def in_encoding(text: str, encoding: str | None) -> str:
    """The text as a stream of this encoding can have it, its columns where they were."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        # The cells of a table are two spaces apart: one of them gives way to the longer sign.
        plain = text.replace(" \N{PLUS-MINUS SIGN}", "+-").replace("\N{MICRO SIGN}", "u")
        return plain.encode("ascii", "backslashreplace").decode("ascii")
    return text


def one_line(text: str) -> str:
    """The text on one printable line."""
    return printable(" ".join(text.split()))


def first_line(error: BaseException) -> str:
    """What an exception says first. A model may have made it so that it cannot be asked."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (whatever a model's own exception does)
        text = ""
    return next(iter(text.strip().splitlines()), "no message")


def shorten(text: str, width: int) -> str:
    """The text with its middle left out, where it is longer than ``width`` characters."""
    if len(text) <= width:
        return text
    head = max(0, width - 3) // 2
    tail = max(0, width - 3 - head)
    return f"{text[:head]}...{text[len(text) - tail :]}"[:width]


def last_lines(output: bytes) -> str:
    """The end of what a process wrote: enough for the last calls of a traceback, and no line endless."""
    lines = output.decode(errors="backslashreplace").strip().splitlines()[-TAIL_LINES:]
    return "\n".join(shorten(printable(line.expandtabs()), LINE_CHARACTERS) for line in lines)
