"""The file that is written: crashes, full disks, rotation, other writers."""

import errno
import gzip
import json
import os
import shutil
import stat
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.auditlogs import NOON
from tezio_signer.audit import files
from tezio_signer.audit.chain import Head
from tezio_signer.audit.files import (
    AuditFile,
    Written,
    check_access,
    in_use,
    older_files,
    opened,
)
from tezio_signer.audit.verifying import Report, verify
from tezio_signer.errors import StartupError


def entries(*numbers: int) -> list[bytes]:
    """Fields of lines."""
    return [b'{"kind":"decision","n":%d}' % number for number in numbers]


class FilesCase(SynchronousTestCase):
    """A directory with an audit log."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "audit.jsonl"
        self.said: list[str] = []

    def open(self, path: Path | None = None) -> AuditFile:
        """Open the file, as a daemon does at its start."""
        file = AuditFile(path or self.path, lambda: NOON, self.said.append)
        file.open()
        self.addCleanup(file.close)
        return file

    def report(self, *files: Path) -> Report:
        """What is found in the file and the older ones."""
        each = files or (*older_files(self.path), self.path)
        streams = [(path.name, opened(path)) for path in each]
        try:
            return verify(streams)
        finally:
            for _, stream in streams:
                stream.close()

    def assert_well(self, *numbers: int) -> Report:
        """Check that nothing is wrong, and that these lines are there in this order."""
        report = self.report()
        self.assertEqual(list(map(str, report.wrong)), [])
        self.assertEqual(self.numbers(), list(numbers))
        return report

    def numbers(self) -> list[int]:
        """Those of the lines that can be read, over all files."""
        found = []
        for path in (*older_files(self.path), self.path):
            with opened(path) as file:
                for line in file:
                    try:
                        said: dict[str, Any] = json.loads(line)
                    except ValueError:
                        continue
                    found += [said["n"]] if "n" in said else []
        return found


class WritingTests(FilesCase):
    """Lines that are written one behind the other."""

    def test_goes_on(self) -> None:
        """The next process goes on with the chain where the one before has stopped."""
        first = self.open()
        self.assertEqual(first.append(entries(1, 2), False), Written(2, None, first.head))
        first.close()
        second = self.open()
        self.assertEqual(second.head, first.head)
        second.append(entries(3), True)
        report = self.assert_well(1, 2, 3)
        self.assertEqual((report.lines, report.head), (4, second.head))

    def test_long_lines(self) -> None:
        """The last line is found however long lines are."""
        file = self.open()
        for size in (10, 70_000, 300_000):
            file.append([b'{"x":"%b"}' % (b"y" * size)], False)
            file.close()
            file = self.open()
        file.append(entries(1), False)
        self.assert_well(1)

    def test_mode(self) -> None:
        """A new file is for its user alone; one that was there keeps its mode."""
        self.open().append(entries(1), False)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        other = self.directory / "other.jsonl"
        other.touch(mode=0o640)
        other.chmod(0o640)
        self.open(other).append(entries(1), False)
        self.assertEqual(stat.S_IMODE(other.stat().st_mode), 0o640)

    def test_one_writer(self) -> None:
        """A second process does not get the file, by whatever name; when it is closed, one does."""
        first = self.open()
        link = self.directory / "link.jsonl"
        link.symlink_to(self.path)
        hard = self.directory / "hard.jsonl"
        os.link(self.path, hard)
        for name in (self.path, link, hard):
            error = self.assertRaises(StartupError, self.open, name)
            self.assertRegex(
                str(error),
                rf"{name.name}: it is in use by a running signer \(process {os.getpid()}",
            )
            used = in_use(name)
            self.assertEqual(str(used), str(error))
        first.close()
        self.assertIsNone(in_use(self.path))
        self.open(link)

    def test_cannot_be_opened(self) -> None:
        """Whatever keeps the file from being written is one sentence; `check` has the same."""
        missing = self.directory / "none" / "audit.jsonl"
        fifo = self.directory / "fifo"
        os.mkfifo(fifo)
        other = self.directory / "other"
        other.write_text("something else\n")
        for path, sentence in (
            (missing, f"there is no directory {missing.parent}; create it"),
            (fifo, "it is not a regular file"),
            (self.directory, "it is a directory; name a file in it"),
            (other, "there is no line of an audit log in it; move the file away"),
        ):
            error = self.assertRaises(StartupError, self.open, path)
            self.assertIn(f"audit log {path}: {sentence}", str(error))
            again = self.assertRaises(StartupError, check_access, path)
            self.assertEqual(str(again), str(error))

    def test_check_changes_nothing(self) -> None:
        """To look whether the file could be opened makes none, and takes no lock."""
        check_access(self.path)
        self.assertFalse(self.path.exists())
        self.open().append(entries(1), False)
        before = self.path.read_bytes()
        check_access(self.path)
        self.assertEqual(self.path.read_bytes(), before)


class CrashTests(FilesCase):
    """What a process has left that was killed, or whose machine was."""

    def whole(self) -> bytes:
        """A log of four lines, and nobody who has it."""
        file = self.open()
        file.append(entries(1, 2, 3), False)
        file.close()
        return self.path.read_bytes()

    def test_crash_in_mid_line(self) -> None:
        """Wherever in a line the process was killed, the next one goes on, and says so."""
        whole = self.whole()
        last = whole.rfind(b"\n", 0, -1) + 1
        for end in range(last, len(whole) + 1):
            self.path.write_bytes(whole[:end])
            file = self.open()
            file.append(entries(4), False)
            file.close()
            kept = (1, 2, 3, 4) if end >= len(whole) - 1 else (1, 2, 4)
            report = self.assert_well(*kept)
            torn = 0 < end - last < len(whole) - last - 1
            self.assertEqual(len(report.notes), torn)
            if torn:
                self.assertIn(f"{end - last} bytes", report.notes[0].sentence)

    def test_crash_in_the_first_line(self) -> None:
        """So it is if that was the first line of all."""
        whole = self.whole()
        first = whole.find(b"\n") + 1
        for end in range(first + 1):
            self.path.write_bytes(whole[:end])
            file = self.open()
            file.append(entries(4), False)
            file.close()
            self.assert_well(4)

    def test_power_cut(self) -> None:
        """Zeros, which a file system leaves at the end, are torn bytes."""
        whole = self.whole()
        for left in (b"\0" * 5000, b"\0\n\0"):
            self.path.write_bytes(whole + left)
            file = self.open()
            file.append(entries(4), False)
            file.append(entries(5), False)
            file.close()
            report = self.assert_well(1, 2, 3, 4, 5)
            self.assertIn(f"{len(left)} bytes", report.notes[0].sentence)
            self.assertEqual(self.said, [])

    def test_not_a_crash(self) -> None:
        """What no crash leaves is told of at the next start, and found; the chain goes on."""
        whole = self.whole()
        last = whole.rfind(b"\n", 0, -1) + 1
        changed = whole[:last] + b"x" + whole[last + 1 :]
        for data in (changed, changed[:-5], whole + b"\xff\n" * 40_000, whole + b'{"format":1}\n'):
            self.said.clear()
            self.path.write_bytes(data)
            for number in (4, 5):
                file = self.open()
                file.append(entries(number), False)
                file.close()
            report = self.report()
            line = whole.count(b"\n") + (data[: len(whole)] == whole)
            self.assertEqual([wrong.place.line for wrong in report.wrong], [line])
            self.assertEqual(report.notes, [])
            self.assertEqual(len(self.said), 1)
            self.assertIn("not what a crash leaves", self.said[0])
            self.assertEqual(self.numbers()[-2:], [4, 5])

    def test_crash_behind_a_crash(self) -> None:
        """If the line that closes a torn one is torn itself, the next one closes both."""
        whole = self.whole()
        for end in range(1, 200, 7):
            self.path.write_bytes(whole + b'{"format":1,"num')
            file = self.open()
            file.append(entries(4), False)
            file.close()
            size = len(whole) + 16
            self.path.write_bytes(self.path.read_bytes()[: size + end])
            file = self.open()
            file.append(entries(5), False)
            file.close()
            self.assert_well(1, 2, 3, 5)


class FullDiskTests(FilesCase):
    """Writes that fail, at once or in the middle."""

    def test_full_disk(self) -> None:
        """Whole lines that found room are in the chain; what is no line is taken back."""
        for room in range(0, 1200, 13):
            shutil.rmtree(self.directory)
            self.directory.mkdir()
            file = self.open()
            file.append(entries(1), False)
            with SmallDisk(room):
                written = file.append(entries(2, 3, 4), False)
            self.assertEqual(written.error is None, written.count == 3)
            file.append(entries(5), False)
            file.close()
            self.assert_well(1, *range(2, 2 + written.count), 5)
            self.assertEqual(self.report().notes, [])

    def test_append_only(self) -> None:
        """Where nothing can be taken back (chattr +a), the next line says what was torn."""
        for room in range(0, 1200, 13):
            shutil.rmtree(self.directory)
            self.directory.mkdir()
            file = self.open()
            with mock.patch("os.ftruncate", side_effect=OSError(errno.EPERM, "not permitted")):
                file.append(entries(1), False)
                counts = []
                for numbers in ((2, 3, 4), (5, 6)):
                    with SmallDisk(room):
                        counts.append(file.append(entries(*numbers), False).count)
            file.append(entries(7), False)
            file.close()
            self.assert_well(1, *range(2, 2 + counts[0]), *range(5, 5 + counts[1]), 7)

    def test_not_synced(self) -> None:
        """What is written and not synced is in the chain, and is told to be in doubt."""
        file = self.open()
        with mock.patch("os.fdatasync", side_effect=OSError(errno.EIO, "broken")):
            self.assertEqual(file.append(entries(1), True), Written(1, "broken", file.head))
            self.assertIsNone(file.append(entries(2), False).error)
        self.assert_well(1, 2)

    @given(st.lists(st.tuples(st.integers(0, 900), st.booleans(), st.booleans()), max_size=12))
    @settings(max_examples=400, deadline=None)
    def test_any_history(self, steps: list[tuple[int, bool, bool]]) -> None:
        """Whatever fails in whichever order, the log verifies, and has what was told to be."""
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        file, number = self.open(), 0
        expected: list[int] = []
        for room, stubborn, crashes in steps:
            numbers = (number, number + 1)
            number += 2
            refusing = mock.patch("os.ftruncate", side_effect=OSError(errno.EPERM, "no"))
            with SmallDisk(room), refusing if stubborn else nullcontext():
                expected += numbers[: file.append(entries(*numbers), False).count]
            if crashes:
                file.close()
                file = self.open()
        expected += [number] * file.append(entries(number), False).count
        file.close()
        self.assert_well(*expected)


class SmallDisk:
    """A disk with room for so many bytes, from now on."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __enter__(self) -> None:
        self._write = os.write
        os.write = self.write  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        os.write = self._write

    def write(self, descriptor: int, data: bytes) -> int:
        """Write what there is room for; raises OSError without any."""
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


class RotationTests(FilesCase):
    """Files that are moved away, as logrotate does."""

    def rotate(self, name: str = "audit.jsonl.1") -> Path:
        """Move the file away."""
        return self.path.rename(self.directory / name)

    def test_moved(self) -> None:
        """The line behind a rotation is in the new file, which goes on with the chain."""
        file = self.open()
        file.append(entries(1, 2), False)
        self.path.chmod(0o640)
        older = self.rotate()
        size = older.stat().st_size
        file.append(entries(3), False)
        self.assertEqual(older.stat().st_size, size)
        report = self.assert_well(1, 2, 3)
        self.assertEqual(report.lines, 5)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)
        self.assertEqual(self.said, [])

    def test_created_by_others(self) -> None:
        """An empty file that is there already is used (`create` of logrotate)."""
        file = self.open()
        file.append(entries(1), False)
        self.rotate()
        self.path.touch()
        file.append(entries(2), False)
        self.assert_well(1, 2)

    def test_moved_while_stopped(self) -> None:
        """A daemon that finds no file goes on with the chain of the newest older one."""
        numbers = []
        for number in range(12):
            file = self.open()
            file.append(entries(number), False)
            numbers.append(number)
            file.close()
            if number % 2:
                self.path.write_bytes(self.path.read_bytes() + b'{"format":1,"num')  # a crash
            for older in range(10, 0, -1):
                name = self.directory / f"audit.jsonl.{older}"
                if name.exists():
                    name.rename(self.directory / f"audit.jsonl.{older + 1}")
            self.rotate()
        self.open().append(entries(12), False)
        names = [path.name for path in older_files(self.path)]
        self.assertEqual(names, [f"audit.jsonl.{n}" for n in range(12 - 1, 0, -1)][-12:])
        self.assert_well(*numbers[1:], 12)

    def test_dates_and_compression(self) -> None:
        """So it is with dates in the names (`dateext`), and with older ones compressed."""
        for number, name in enumerate(("20261126.gz", "20261127", "20261128.gz")):
            file = self.open()
            file.append(entries(number), False)
            file.close()
            older = self.rotate(f"audit.jsonl-{name}")
            if older.suffix == ".gz":
                older.write_bytes(gzip.compress(older.read_bytes()))
        self.open().append(entries(3), False)
        self.assert_well(0, 1, 2, 3)

    def test_damaged_compressed_file(self) -> None:
        """An older file that is damaged does not keep the signer from starting; it is told of."""
        file = self.open()
        file.append(entries(*range(50)), False)
        file.close()
        older = self.rotate("audit.jsonl.1.gz")
        data = bytearray(gzip.compress(older.read_bytes()))
        data[30:60] = bytes(byte ^ 0xFF for byte in data[30:60])
        for damaged in (bytes(data), bytes(data[:40]), b"x"):
            self.said.clear()
            older.write_bytes(damaged)
            file = self.open()
            self.assertEqual(file.head, Head())
            self.assertIn("audit.jsonl.1.gz is passed over", self.said[0])
            file.close()

    def test_damaged_first_lines(self) -> None:
        """Files whose first line is damaged are in the order of their names."""
        names = ("1", "2.gz", "10"), ("20261128-2.gz", "20261128", "20261127.gz", "20250101")
        for sign, newest_first in zip(".-", names, strict=True):
            paths = [self.directory / f"audit.jsonl{sign}{name}" for name in newest_first]
            for path in paths:
                path.write_bytes(b"damaged\n")
            self.assertEqual(older_files(self.path), paths[::-1])
            for path in paths:
                path.unlink()

    def test_moved_while_it_is_opened(self) -> None:
        """A file that is moved away before it is locked is left for the one in its place."""
        lock, moved = files._lock, list[Path]()

        def lock_late(descriptor: int) -> None:
            if len(moved) < 3:
                moved.append(self.rotate(f"audit.jsonl.{3 - len(moved)}"))
            lock(descriptor)

        self.patch(files, "_lock", lock_late)
        self.open().append(entries(1), False)
        self.assertEqual([path.stat().st_size for path in moved], [0, 0, 0])
        self.assert_well(1)

    def test_made_by_others_meanwhile(self) -> None:
        """A file that comes into being while this one is to be made is used."""
        really, missing = os.open, [True]

        def opening(path: Path, flags: int, mode: int = 0o777) -> int:
            if path == self.path and missing and missing.pop():
                self.path.touch()
                raise FileNotFoundError
            return really(path, flags, mode)

        with mock.patch("os.open", opening):
            self.open().append(entries(1), False)
        self.assert_well(1)

    def test_not_ours(self) -> None:
        """What only looks like an older file is left alone."""
        for name in ("audit.jsonl.bak", "audit.jsonl~", "audit.jsonl.1.old", "audit.json.1"):
            (self.directory / name).write_text("x")
        self.assertEqual(older_files(self.path), [])

    def test_no_older_file(self) -> None:
        """Without an older file a chain begins, with line 1."""
        self.open()
        self.assertEqual(self.open(self.directory / "new.jsonl").head, Head())

    def test_in_use_by_another(self) -> None:
        """A new file that another signer has is not written to; nor is the old one."""
        file = self.open()
        file.append(entries(1), False)
        older = self.rotate()
        other = self.open(self.path)
        size = older.stat().st_size
        written = file.append(entries(2), False)
        self.assertEqual(written.count, 0)
        self.assertIn("in use by a running signer", str(written.error))
        self.assertEqual((older.stat().st_size, self.path.stat().st_size), (size, 0))
        other.close()
        self.assertEqual(file.append(entries(3), False).count, 1)
        self.assert_well(1, 3)

    def test_directory_is_gone(self) -> None:
        """Nothing is written while there is no directory; when there is one, the chain goes on."""
        file = self.open()
        file.append(entries(1), False)
        elsewhere = self.directory.rename(self.directory.with_name(f"{self.directory.name}.away"))
        self.assertEqual(file.append(entries(2), False).error, "No such file or directory")
        self.directory.mkdir()
        self.assertEqual(file.append(entries(3), False).count, 1)
        report = self.report(elsewhere / "audit.jsonl", self.path)
        self.assertEqual(report.wrong, [])

    def test_cut_by_others(self) -> None:
        """A file that others have cut is told of; after `copytruncate` the chain goes on."""
        file = self.open()
        file.append(entries(1, 2), False)
        shutil.copy(self.path, self.directory / "audit.jsonl.1")
        os.truncate(self.path, 0)
        file.append(entries(3), False)
        self.assert_well(1, 2, 3)
        self.assertIn("without copytruncate", self.said[0])
        size = self.path.stat().st_size
        os.truncate(self.path, size - 10)
        file.append(entries(4), False)
        self.assertNotEqual(self.report().wrong, [])

    def test_others_write(self) -> None:
        """What another program writes is told of, found, and no part of our lines."""
        for junk in (b"junk", b"junk\n", b"\n"):
            shutil.rmtree(self.directory)
            self.directory.mkdir()
            self.said.clear()
            file = self.open()
            file.append(entries(1), False)
            with self.path.open("ab") as other:
                other.write(junk)
            file.append(entries(2), False)
            file.close()
            self.assertIn(f"has grown by {len(junk)} bytes", self.said[0])
            report = self.report()
            self.assertEqual([wrong.place.line for wrong in report.wrong], [3])
            self.assertEqual(self.numbers(), [1, 2])

    def test_replaced(self) -> None:
        """A file that is in the place of ours and has lines is told of, and goes on from ours."""
        file = self.open()
        file.append(entries(1), False)
        shutil.copy(self.path, self.directory / "copy")
        os.replace(self.directory / "copy", self.path)
        file.append(entries(2), False)
        self.assertIn("is not empty", self.said[0])
        self.assertEqual(self.assert_well(1, 2).lines, 3)  # with one that begins the file
