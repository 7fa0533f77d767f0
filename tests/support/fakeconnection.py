"""A connection that is nothing but what its slot asks of it."""

from attrs import define


@define(eq=False)
class FakeConnection:
    """Remembers how it was closed.

    :ivar waiting: whether the system has bytes of it that were not read yet.
    """

    waiting: bool = False
    finished: bool = False
    aborted: bool = False

    def finish(self) -> None:
        self.finished = True

    def abortConnection(self) -> None:
        self.aborted = True

    def bytes_wait(self) -> bool:
        """What the test says."""
        return self.waiting
