"""All HSMs together: when boards are looked for, and how they are told apart."""

from collections.abc import Sequence
from itertools import pairwise

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent

from tests.support.boardscase import BoardsTestCase
from tests.support.fakeboard import FakeBoard
from tests.support.vectors import OCTEZ, TZ1, TZ3, noop
from tezio_signer.errors import Unavailable
from tezio_signer.hsm.boards import Board
from tezio_signer.tezos.keys import PublicKeyHash


class LookingTests(BoardsTestCase):
    """How often it is looked for boards."""

    def test_all_there(self) -> None:
        """While all are in use, every two seconds."""
        self.start("one", "two")
        self.looked(1)
        self.assert_times(self.looked(7.5), [1.05, 3.05, 5.05, 7.05])

    def test_one_is_gone(self) -> None:
        """As long as one of two is gone, soon and then twice a second; then calmly again."""
        first, _ = self.start("one", "two")
        self.looked(3)
        self.pull(first)
        self.assert_times(self.looked(2), [0.05, 0.1, 0.2, 0.4, 0.8, 1.3, 1.8])
        self.plugged[Board("one", "one")] = first
        self.looked(0.5)
        first.serve()
        self.looked(2)
        self.assertEqual(len(self.looked(4)), 2)

    def test_gone_again(self) -> None:
        """When it is gone once more, it is looked for as soon as the first time."""
        first, second = self.start("one", "two")
        self.looked(3)
        for name, board in (("one", first), ("two", second)):
            self.pull(board)
            self.assert_times(self.looked(0.3), [0.05, 0.1, 0.2])
            self.plugged[Board(name, name)] = board
            self.looked(1)
            board.serve()
            self.looked(1)

    def test_none_at_all(self) -> None:
        """Where there was no board yet, it is looked for calmly: none is missing."""
        self.run_pool([])
        self.assertEqual(self.looks, [0])
        self.assert_times(self.looked(5), [2, 4])

    def test_told_again_and_again(self) -> None:
        """However often something happens to the ports, it is looked for boards soon."""
        self.run_pool([])
        self.looks.clear()
        for _ in range(10):
            self.tell()
            self.clock.advance(0.03)
        self.assertGreaterEqual(len(self.looks), 4)

    def test_not_found_any_more(self) -> None:
        """A board that is found no more is left, though its port may still be open."""
        first, second = self.start("one", "two")
        del self.plugged[Board("one", "one")]
        self.looked(3)
        self.assertIn("abort", first.port.take())
        self.assertEqual([d.ready for d in self.pool.devices.values()], [False, True])
        self.assertNotIn("abort", second.port.take())
        self.assertTrue(all(b - a < 0.6 for a, b in pairwise(self.looks[2:])))

    def test_stopped(self) -> None:
        """After the end it is looked for no more, whatever becomes of the boards."""
        self.start("one", "two")
        self.pool.stopService()
        self.assertEqual(self.looked(5), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_before_it_started(self) -> None:
        """What was not started can be stopped: another service may have failed before it."""
        self.pool.stopService()
        self.assertEqual(self.looked(5), [])

    def test_stopped_while_one_waits(self) -> None:
        """Who waits for a board when it stops is refused at once."""
        self.run_pool([])
        waiting = self.sign(noop(1)).result
        key = Deferred.fromCoroutine(self.pool.public_key(TZ3))
        self.assertNoResult(waiting)
        self.pool.stopService()
        self.failureResultOf(waiting, Unavailable)
        self.failureResultOf(key, Unavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class NamelessTests(BoardsTestCase):
    """Boards of which nothing is known but their ports."""

    def test_two_without_serial_numbers(self) -> None:
        """They are two, and both sign."""
        boards = [self.plug_in(name, None) for name in ("one", "two")]
        self.run_pool(boards)
        requests = [self.sign(noop(number)).result for number in range(2)]
        for board in boards:
            self.assertEqual(len(board.serve()), 1)
        for number, request in enumerate(requests):
            self.signed(request, noop(number))

    def test_another_port(self) -> None:
        """A board with a serial number is the same one at another port."""
        (board,) = self.start("one")
        self.pull(board)
        self.plugged[Board("elsewhere", "one")] = board
        self.looked(1)
        board.serve()
        self.assertEqual(len(self.pool.devices), 1)
        signing = self.sign(noop(1)).result
        board.serve()
        self.signed(signing, noop(1))

    def test_clone_that_moves(self) -> None:
        """Of two boards that say one serial number, the one that moved is known again."""
        boards = [FakeBoard() for _ in range(2)]
        for port, board in zip(("one", "two"), boards, strict=True):
            self.plugged[Board(port, "clone")] = board
        self.run_pool(boards)
        self.pull(boards[1])
        self.plugged[Board("three", "clone")] = boards[1]
        self.looked(1)
        boards[1].serve()
        places = [(d.board.port, d.ready) for d in self.pool.devices.values()]
        self.assertEqual(places, [("one", True), ("three", True)])


class MissingKeysTests(BoardsTestCase):
    """The keys that no board holds."""

    def missing(self, events: Sequence[LogEvent]) -> list[str]:
        """What is said about them."""
        said = [formatEvent(e) for e in events if e["log_level"] is LogLevel.error]
        return [
            line.partition("configuration: ")[2].partition(";")[0]
            for line in said
            if "no connected board holds" in line
        ]

    def test_named(self) -> None:
        """They are named when all boards have said theirs, and again when others are missing."""
        other = PublicKeyHash.parse(OCTEZ["keys"][3]["pkh"])
        self.pool = self.made((TZ1, TZ3, other))
        with capturedLogs() as events:
            boards = [self.plug_in(name) for name in ("one", "two")]
            self.run_pool([])
            self.assertEqual(self.missing(events), [])
            boards[0].serve()
            self.assertEqual(self.missing(events), [])
            boards[1].serve()
            self.looked(5)
        self.assertEqual(self.missing(events), [str(other)])

    def test_several(self) -> None:
        """All of them in one line."""
        keys = tuple(PublicKeyHash.parse(OCTEZ["keys"][number]["pkh"]) for number in (1, 3))
        self.pool = self.made(keys)
        with capturedLogs() as events:
            self.start("one")
        self.assertEqual(self.missing(events), [", ".join(map(str, keys))])

    def test_no_board(self) -> None:
        """Where no board is plugged in, all keys are missing."""
        self.pool = self.made((TZ1, TZ3))
        with capturedLogs() as events:
            self.run_pool([])
        self.assertEqual(self.missing(events), [f"{TZ1}, {TZ3}"])

    def test_found(self) -> None:
        """When they are there, nothing is said."""
        self.pool = self.made((TZ1, TZ3))
        with capturedLogs() as events:
            self.start("one")
            self.looked(5)
        self.assertEqual(self.missing(events), [])
