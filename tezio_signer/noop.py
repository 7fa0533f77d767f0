"""A callback that does nothing."""


def do_nothing(*args: object) -> None:
    """Stand in for a callback that nobody needs."""
