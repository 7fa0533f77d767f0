"""The slot of one connection: its states and their times, by a clock of the test."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.fakeconnection import FakeConnection
from tezio_signer.config.settings import Limits
from tezio_signer.listeners.slots import Slot, State, slot_of

REQUEST, IDLE = 10.0, 30.0


@define
class FakeKeeper:
    """Notes what it is told of one slot."""

    clock: IReactorTime
    limits: Limits = field(factory=lambda: Limits(request_seconds=REQUEST, idle_seconds=IDLE))
    stopping: bool = False
    told: list[object] = field(factory=list)

    def changed(self, slot: Slot) -> None:
        self.told.append(slot.state)

    def spoke(self, slot: Slot) -> None:
        self.told.append("spoke")

    def cut(self, slot: Slot, why: str) -> None:
        self.told.append(why)
        slot.abort()

    def aborted(self, slot: Slot) -> None:
        self.told.append("aborted")

    def left(self, slot: Slot) -> None:
        self.told.append("left")


class SlotTests(SynchronousTestCase):
    """What one connection does, and until when."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.keeper = FakeKeeper(self.clock)
        self.connection = FakeConnection()
        self.slot = self.slot_with()

    def slot_with(self, speaks: bool = False) -> Slot:
        """A new slot."""
        return Slot(self.keeper, "10.0.0.1", "10.0.0.1", self.connection, speaks)

    def ways(self) -> dict[State, tuple[Callable[[], object], ...]]:
        """How a new slot comes into each state."""
        slot = self.slot
        return {
            State.SILENT: (),
            State.RECEIVING: (slot.heard,),
            State.SERVING: (slot.heard, slot.serving),
            State.IDLE: (slot.heard, slot.serving, slot.answered),
            State.CLOSING: (slot.heard, slot.closing),
            State.GONE: (slot.heard, slot.abort),
        }

    def bring_to(self, state: State) -> None:
        """A new slot in a state, whose bytes were all read."""
        self.setUp()
        for step in self.ways()[state]:
            step()
        self.slot.unread = False
        self.assertIs(self.slot.state, state)
        self.keeper.told.clear()

    def test_ends_in_time(self) -> None:
        """Every state but SERVING ends: an idle connection is closed, any other one aborted."""
        for state, seconds in (
            (State.SILENT, REQUEST),
            (State.RECEIVING, REQUEST),
            (State.IDLE, IDLE),
            (State.CLOSING, REQUEST),
        ):
            self.bring_to(state)
            self.clock.advance(seconds - 0.1)
            self.assertIs(self.slot.state, state)
            self.clock.advance(0.1)
            if state is State.IDLE:
                self.assertEqual(self.keeper.told, [State.CLOSING])
                self.assertTrue(self.connection.finished)
                self.assertFalse(self.connection.aborted)
            else:
                self.assertEqual(self.keeper.told, [state.value, "aborted"])
                self.assertTrue(self.connection.aborted)
        self.bring_to(State.SERVING)
        self.clock.advance(1e6)
        self.assertIs(self.slot.state, State.SERVING)

    def test_drip(self) -> None:
        """However steadily a request drips in, its time begins with its first byte."""
        for state in (State.SILENT, State.IDLE):
            self.bring_to(state)
            for _ in range(9):
                self.slot.heard()
                self.slot.receiving()
                self.clock.advance(1)
            self.assertIs(self.slot.state, State.RECEIVING)
            self.clock.advance(1)
            self.assertTrue(self.connection.aborted)

    def test_next_request(self) -> None:
        """Requests have their time each; nobody may have another one when the daemon stops."""
        self.bring_to(State.IDLE)
        self.clock.advance(IDLE - 1)
        self.slot.receiving()
        self.clock.advance(REQUEST - 1)
        self.slot.serving()
        self.assertTrue(self.slot.answered())
        self.assertEqual(self.slot.since, self.clock.seconds())
        self.slot.serving()
        self.keeper.stopping = True
        self.assertFalse(self.slot.answered())

    def test_closing(self) -> None:
        """What is being closed does nothing else, and its time does not begin anew."""
        self.bring_to(State.CLOSING)
        self.clock.advance(REQUEST - 1)
        for step in (self.slot.heard, self.slot.receiving, self.slot.serving, self.slot.closing):
            step()
        self.assertFalse(self.slot.answered())
        self.assertIs(self.slot.state, State.CLOSING)
        self.assertEqual(self.keeper.told, [])
        self.clock.advance(1)
        self.assertTrue(self.connection.aborted)

    def test_gone(self) -> None:
        """Who is gone comes back in no way, is aborted once, and leaves nothing behind."""
        for state in State:
            for end in ("abort", "left"):
                self.bring_to(state)
                getattr(self.slot, end)()
                self.assertTrue(self.slot.gone)
                self.assertEqual(self.clock.getDelayedCalls(), [])
                self.keeper.told.clear()
                for step in (self.slot.heard, self.slot.receiving, self.slot.serving):
                    step()
                self.assertFalse(self.slot.answered())
                self.slot.closing()
                self.slot.abort()
                self.slot.look()
                self.assertEqual(self.keeper.told, [])
                self.assertIs(self.slot.state, State.GONE)

    def test_bytes_wait(self) -> None:
        """Bytes with the system count as sent: an idle connection with some is not closed."""
        self.bring_to(State.IDLE)
        self.connection.waiting = True
        self.clock.advance(IDLE)
        self.assertEqual(self.keeper.told, [State.RECEIVING])
        self.assertTrue(self.slot.unread)
        self.bring_to(State.IDLE)
        self.slot.unread = True  # or they were read, and no protocol has seen them
        self.clock.advance(IDLE)
        self.assertEqual(self.keeper.told, [State.RECEIVING])
        self.clock.advance(REQUEST)
        self.assertTrue(self.connection.aborted)

    def test_look(self) -> None:
        """A connection is asked for bytes only if none are known of, and is then not silent."""
        self.assertFalse(self.slot.look())
        self.assertIs(self.slot.state, State.SILENT)
        self.connection.waiting = True
        self.assertTrue(self.slot.look())
        self.assertIs(self.slot.state, State.RECEIVING)
        self.connection.waiting = False
        self.assertTrue(self.slot.look())

    def test_first_bytes(self) -> None:
        """Its keeper is told of the first bytes once; of one that comes with bytes, it knows."""
        self.keeper.told.clear()
        self.slot.heard()
        self.slot.heard()
        self.assertEqual(self.keeper.told, [State.RECEIVING, "spoke"])
        self.keeper.told.clear()
        slot = self.slot_with(speaks=True)
        slot.heard()
        self.assertEqual(self.keeper.told, [State.RECEIVING])
        self.assertTrue(slot.unread)

    def test_unlimited(self) -> None:
        """A connection that is not limited has no slot, and so is not served."""
        self.assertRaises(AttributeError, slot_of, object())
