"""A callback that does nothing."""


def do_nothing(*args: object) -> None:
    """Serve as a callback that nobody needs."""
