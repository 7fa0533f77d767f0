"""Text for a terminal of 80 columns."""

import textwrap

COLUMNS = 80


def wrapped(text: str, first: str, further: str) -> list[str]:
    """A text in lines of 80 columns, in which nothing is left that a terminal would obey."""
    return textwrap.wrap(
        shown(text),
        COLUMNS,
        initial_indent=first,
        subsequent_indent=further,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def shown(text: str) -> str:
    r"""A text with escapes such as \x1b for all that cannot be seen, which a client chose."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
