"""One history: everything that takes part, and what events do to it."""

from typing import cast

from tests.campaigns.histories.boards import MemoryBoard, Reply
from tests.campaigns.histories.daemons import Machine, Process
from tests.campaigns.histories.disk import Disk
from tests.campaigns.histories.etcd import Etcd
from tests.campaigns.histories.events import MARKS, Event, Setup, competing
from tests.campaigns.histories.network import Network
from tests.campaigns.histories.referee import Referee
from tests.campaigns.histories.surroundings import Surroundings
from tests.campaigns.signing import Asked
from tezio_signer.errors import StartupError
from tezio_signer.watermarks.rule import NO_PAYLOAD, Mark

BEGINNING = 1_000_000.0
"""The time at which histories begin."""
PAUSE = 8.0
"""Seconds of a long pause: more than anybody waits for an answer."""
MOST_CLIENTS = 6
"""Clients that wait at one daemon at the same time, at most."""


class World:
    """The parts of a history, at one moment.

    :ivar now: the time.
    :ivar restored: an older backup is in the store, and only a daemon knows what it lacks.
    """

    def __init__(self, setup: Setup, outside: Surroundings) -> None:
        self.setup = setup
        self._outside = outside
        cryptography = outside.cryptography
        self.now = BEGINNING
        self.network = Network()
        self.store: Etcd | Disk = Etcd(self.network) if setup.shared else Disk(self.network)
        if isinstance(self.store, Etcd):
            self.store.prompt_readings = setup.prompt_readings
        self.referee = Referee(cryptography, self.store.marks)
        self.machines: dict[str, Machine] = {}
        self.boards: dict[str, MemoryBoard] = {}
        for number in range(setup.daemons):
            name = f"d{number}"
            boards = [
                MemoryBoard(f"b{number}{letter}", name, self.network, cryptography)
                for letter in "xyz"[: setup.boards]
            ]
            self.boards.update((board.name, board) for board in boards)
            self.machines[name] = Machine(name, boards)
        self.positions = dict.fromkeys(setup.marks, (1, 0))
        self._ending: list[Machine] = []
        self.restored = False
        self._written: object = None
        self._events = {
            name.removeprefix("_do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }
        for machine in self.machines.values():
            self._start(machine)
        self.settle(0.5)

    def may_restore(self) -> bool:
        """Whether a backup may be put back: one daemon of several may not know yet what is lost."""
        if len(self.machines) > 1 or cast(Etcd, self.store).wiped is not None:
            return False
        (machine,) = self.machines.values()
        return machine.running is not None and machine.running.was_read

    def do(self, event: Event) -> bool:
        """Have something happen; False if it cannot, as in a history that was shortened."""
        if not self.happens(event):
            return False
        self.referee.figures.steps += 1
        self.referee.figures.events[event.kind] += 1
        return True

    def happens(self, event: Event) -> bool:
        """Have something happen that is not counted."""
        try:
            if self._events[event.kind](event.where, event.number) is False:
                return False
            self._end_turn()
        except Exception as error:
            self.referee.violated("a fault", f"{type(error).__name__}: {error} after {event}")
        if self._outside.tracebacks:
            self.referee.violated("a fault", f"{self._outside.tracebacks.pop()} after {event}")
        return True

    def _end_turn(self) -> None:
        """What follows at once: timers that are due, messages that wait for nothing."""
        going = True
        while going:
            going = False
            for machine in self.machines.values():
                if machine.running is not None:
                    going = machine.running.advance(self.now) or going
            while (message := self.network.first_prompt(self._held())) is not None:
                message.arrive()
                going = True
        for machine in self._ending:
            if machine.process is not None:
                self._crash(machine)
        self._ending.clear()
        written = self._state_of_store()
        if written != self._written:
            self._written = written
            self.referee.store_changed()

    def _held(self) -> list[str]:
        return [name for name, machine in self.machines.items() if machine.paused]

    def _state_of_store(self) -> object:
        if isinstance(self.store, Etcd):
            return self.store.cluster.revision if self.store.wiped is None else None
        return self.store.stored

    def _do_arrive(self, way: str, number: int) -> bool:
        if self._waits(way):
            return False
        message = self.network.take(way, number)
        if message is None:
            return False
        message.arrive()
        return True

    def _waits(self, way: str) -> bool:
        """Whether nobody can take what arrives on a way."""
        machine = self.machines.get(way.rpartition(">")[2])
        return machine is not None and machine.paused

    def _do_lose(self, way: str, number: int) -> bool:
        return "disk" not in way and self.network.take(way, number) is not None

    def _do_late(self, way: str, number: int) -> bool:
        message = self.network.peek(way, number)
        if message is None or message.late:
            return False
        message.late = True
        return True

    def waits_for_time(self) -> bool:
        """Whether a client waits, and nothing is to be expected before time passes."""
        clients = (m.running is not None and m.running.clients for m in self.machines.values())
        return any(clients) and self.is_quiet()

    def is_quiet(self) -> bool:
        """Whether nothing that is not late can arrive before time passes."""
        return not any(map(self.is_waited_for, self.network.ways))

    def is_waited_for(self, way: str) -> bool:
        """Whether something on a way arrives before time passes."""
        return not self._waits(way) and not self.network.is_late(way)

    def _do_double(self, way: str, number: int) -> bool:
        message = self.network.peek(way, number)
        if message is None or self._waits(way):
            return False
        message.arrive()
        return True

    def _do_spoil(self, way: str, number: int) -> bool:
        board = self.boards.get(way.partition(">")[0])
        if board is None or self._waits(way):
            return False
        message = self.network.take(way, 0)
        if not isinstance(message, Reply):
            return False
        board.spoil(message, number)
        return True

    def _do_time(self, _: str, __: int) -> bool:
        call = self._next_call()
        if call is None:
            return False
        self.now = max(self.now, call)
        while not self.setup.idle_looks and self._looked_in_vain():
            self.now = max(self.now, self._next_call() or self.now)
        return True

    def _looked_in_vain(self) -> bool:
        """Whether all that is due is to look for boards, which changes nothing; then it is done."""
        running = [m.running for m in self.machines.values() if m.running is not None]
        if not all(process.only_looks(self.now) for process in running):
            return False
        before = self._besides_looks(running)
        self._end_turn()
        return before == self._besides_looks(running)

    def _besides_looks(self, running: list[Process]) -> object:
        ways = {way: len(messages) for way, messages in self.network.ways.items()}
        return ways, [process.besides_looks() for process in running]

    def _do_ask(self, name: str, number: int) -> bool:
        process = self.machines[name].running
        if process is None or len(process.clients) >= MOST_CLIENTS:
            return False
        process.ask(self.asked(number))
        return True

    def asked(self, number: int) -> Asked:
        """A payload: at the position at which baking is, the one before it, or the next."""
        marks, sides = self.setup.marks, self.setup.sides
        number, side = divmod(number, sides)
        which, index = divmod(number, len(marks))
        level, round_ = self.positions[marks[index]]
        if which == 0:
            level, round_ = (level, round_ - 1) if round_ else (max(1, level - 1), 0)
        elif which == 1:
            round_ += 1
        return competing(*MARKS[marks[index]], level, round_)[side]

    def _do_advance(self, _: str, number: int) -> None:
        index, way = divmod(number, 3)
        mark = self.setup.marks[index]
        level, round_ = self.positions[mark]
        self.positions[mark] = (level, round_ + 1) if way == 0 else (level + (1, 7)[way - 1], 0)

    def _do_leave(self, name: str, number: int) -> bool:
        process = self.machines[name].running
        if process is None or number >= len(process.clients):
            return False
        process.leave(number)
        return True

    def _start(self, machine: Machine) -> bool:
        if machine.process is not None:
            return False
        try:
            machine.process = Process(
                machine.name,
                self.now,
                self.store.open,
                machine.boards,
                self.referee,
                lambda: self._ending.append(machine),
            )
        except StartupError:
            self.referee.figures.refusals["to start"] += 1
        return True

    def _do_start(self, name: str, _: int) -> bool:
        return self._start(self.machines[name])

    def _do_crash(self, name: str, _: int) -> bool:
        if self.machines[name].process is None or self.restored:
            return False
        self._crash(self.machines[name])
        return True

    def _crash(self, machine: Machine) -> None:
        if machine.process is not None:
            machine.process.crash()
        machine.process = None
        machine.paused = False
        machine.noticed.clear()
        for way in list(self.network.ways):  # its boards may say something to who comes next
            if way.endswith(f">{machine.name}") and way.partition(">")[0] not in self.boards:
                self.network.clear(way)
        self.network.clear(f"{machine.name}>disk")

    def _do_stop(self, name: str, _: int) -> bool:
        process = self.machines[name].running
        if process is None or self.restored:
            return False
        process.stop()
        self._crash(self.machines[name])
        return True

    def _do_pause(self, name: str, _: int) -> bool:
        machine = self.machines[name]
        if machine.running is None:
            return False
        machine.paused = True
        return True

    def _do_resume(self, name: str, number: int) -> bool:
        machine = self.machines[name]
        if not machine.paused or machine.process is None:
            return False
        if number:
            self._pass(PAUSE)
        machine.paused = False
        machine.process.advance(self.now)
        noticed, machine.noticed = machine.noticed, []
        for notice in noticed:
            notice()
        return True

    def _pass(self, seconds: float) -> None:
        """Let time pass in which no message arrives."""
        until = self.now + seconds
        while (call := self._next_call()) is not None and call <= until:
            self.now = max(self.now, call)
            self._end_turn()
        self.now = until

    def _next_call(self) -> float | None:
        """When somebody has something to do next."""
        running = [m.running for m in self.machines.values() if m.running is not None]
        calls = [call for process in running if (call := process.next_call()) is not None]
        return min(calls, default=None)

    def _do_pull(self, name: str, _: int) -> bool:
        board = self.boards[name]
        if not board.plugged:
            return False
        machine = self.machines[board.daemon]
        lost = board.pull()
        if lost is not None:
            machine.notice(lost)
        machine.notice(lambda: self._look(machine))
        return True

    def _do_plug(self, name: str, _: int) -> bool:
        board = self.boards[name]
        if board.plugged:
            return False
        board.plug_in()
        machine = self.machines[board.daemon]
        machine.notice(lambda: self._look(machine))
        return True

    @staticmethod
    def _look(machine: Machine) -> None:
        if machine.process is not None:
            machine.process.look()

    def _do_power(self, name: str, _: int) -> bool:
        if not self.boards[name].plugged:
            return False
        self.boards[name].lose_power()
        return True

    def _do_mute(self, name: str, number: int) -> bool:
        board = self.boards[name]
        if not board.plugged or board.mute:
            return False
        board.mute, board.stuffed = True, number == 1
        return True

    def _do_raise(self, _: str, number: int) -> bool:
        mark = self.setup.marks[number]
        level, round_ = self.positions[mark]
        mark_id = competing(*MARKS[mark], level, round_)[0].mark_id
        if isinstance(self.store, Disk) and any(m.process for m in self.machines.values()):
            return False
        self.store.raise_mark(mark_id, Mark(level, round_, NO_PAYLOAD))
        return True

    def _do_wipe(self, _: str, __: int) -> bool:
        if isinstance(self.store, Disk):
            if any(machine.process for machine in self.machines.values()):
                return False
            self.store.missing = True
        elif self.store.wiped is not None:
            return False
        else:
            self.store.wipe()
            self.referee.lenient = True
        return True

    def _do_back(self, _: str, __: int) -> None:
        if isinstance(self.store, Disk):
            self.store.missing = False
        elif self.store.wiped is not None:
            self.store.bring_back()
            self.referee.lenient = self.restored
            self.referee.store_replaced()

    def _do_backup(self, _: str, __: int) -> None:
        cast(Etcd, self.store).take_backup()

    def _do_restore(self, _: str, __: int) -> bool:
        if not self.may_restore():
            return False
        cast(Etcd, self.store).restore_backup()
        self.restored = self.referee.lenient = True
        self.referee.store_replaced()
        return True

    def _do_fail(self, _: str, number: int) -> None:
        cast(Disk, self.store).failing = ("before", "behind")[number]

    def settle(self, seconds: float) -> None:
        """Let time pass in which everything arrives, at once and in order."""
        until = self.now + seconds
        while True:
            while (way := next(filter(self._arrives, self.network.ways), None)) is not None:
                self.happens(Event("arrive", way))
            call = self._next_call()
            if call is None or call > until:
                break
            self.happens(Event("time"))
        self.now = until
        self.happens(Event("nothing"))

    def _do_nothing(self, _: str, __: int) -> None:
        """Only what follows by itself."""

    def _arrives(self, way: str) -> bool:
        return not self._waits(way)
