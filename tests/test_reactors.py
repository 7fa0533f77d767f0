"""Calls that are to be made later, and threads that are left behind."""

from threading import Event
from time import monotonic
from typing import cast

from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.reactors import Alarm, Reactor, leave_threads_behind


class PooledReactor:
    """A reactor with a pool of threads of its own."""

    def __init__(self) -> None:
        self.pool = ThreadPool(0, 2)

    def getThreadPool(self) -> ThreadPool:
        return self.pool


class ThreadTests(SynchronousTestCase):
    """What hangs in the pool of a reactor."""

    def test_left_behind(self) -> None:
        """A thread that hangs holds up neither the pool nor Python; others do their work."""
        reactor = PooledReactor()
        leave_threads_behind(cast(Reactor, reactor))
        reactor.pool.start()
        hanging, running, done = Event(), Event(), Event()
        self.addCleanup(hanging.set)

        def hang() -> None:
            running.set()
            hanging.wait()

        reactor.pool.callInThread(hang)
        reactor.pool.callInThread(done.set)
        self.assertTrue(running.wait(10))
        self.assertTrue(done.wait(10))
        self.assertTrue(all(thread.daemon for thread in reactor.pool.threads))
        began = monotonic()
        reactor.pool.stop()
        self.assertLess(monotonic() - began, 5)


class AlarmTests(SynchronousTestCase):
    """One call at a time, however often it is set."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.alarm = Alarm(self.clock)
        self.made: list[tuple[str, float]] = []

    def set(self, seconds: float, name: str) -> None:
        """Have a call noted, and when it was made."""
        self.alarm.set(seconds, lambda: self.made.append((name, self.clock.seconds())))

    def pass_seconds(self, seconds: int) -> None:
        """Let time pass in steps of half a second."""
        self.clock.pump([0.5] * (2 * seconds))

    def test_once(self) -> None:
        """A call is made when its time has come, and not again."""
        self.set(3, "first")
        self.pass_seconds(10)
        self.assertEqual([("first", 3.0)], self.made)

    def test_set_anew(self) -> None:
        """The last call that was set is the only one that is made, be it sooner or later."""
        for seconds, due in ((6, 8.0), (1, 3.0)):
            with self.subTest(seconds=seconds):
                self.setUp()
                self.set(4, "first")
                self.pass_seconds(2)
                self.set(seconds, "second")
                self.pass_seconds(10)
                self.assertEqual([("second", due)], self.made)

    def test_put_off(self) -> None:
        """What was put off is never made; what is set behind it is, to the second."""
        for rest, due in ((1, 7.0), (8, 14.0)):
            with self.subTest(rest=rest):
                self.setUp()
                self.set(4, "first")
                self.pass_seconds(1)
                self.alarm.put_off()
                self.pass_seconds(rest)
                self.set(5, "second")
                self.pass_seconds(20)
                self.assertEqual([("second", due)], self.made)

    def test_set_by_its_own_call(self) -> None:
        """A call may set the next one."""
        self.alarm.set(1, lambda: self.set(2, "second"))
        self.pass_seconds(10)
        self.assertEqual([("second", 3.0)], self.made)

    def test_end(self) -> None:
        """Nothing is left in the reactor, whatever was there before."""
        self.alarm.end()
        self.set(4, "first")
        self.alarm.end()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.alarm.put_off()
        self.alarm.end()
        self.pass_seconds(10)
        self.assertEqual([], self.made)
