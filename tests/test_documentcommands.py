"""The commands that the documents show are run, and write what is shown.

Each command of a `console` block is run by a test of this file, or is named in NOT_RUN with
the reason.
"""

import re
from collections.abc import Awaitable, Callable
from shutil import which
from typing import TypeVar

from attrs import evolve
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from tests.support.auditlogs import log_of
from tests.support.daemonprocess import start_daemon
from tests.support.etcdcluster import start_cluster
from tests.support.owndirectory import own_directory
from tests.support.pages import (
    CAMPAIGN,
    ROOT,
    Section,
    Step,
    documents,
    section,
    sections,
)
from tests.support.shellsession import Session
from tests.support.vectors import TZ3

NOT_RUN = (
    # document, what its command matches, why
    ("", r"apt-get ", "installs packages of Debian; tests.campaigns.baredebian does, for README"),
    ("", r"make ", "the suite itself is run by make; tests.campaigns.baredebian runs these"),
    ("", r"\S*python3? -m (venv|twisted)", "makes an environment, or is the suite itself"),
    ("", r"\S*pip install", "downloads libraries; `make test` has just done it with the wheel"),
    ("", r"octez-client |octez-baker ", "needs Octez; tests.interop and the clients of "
     "tests.support speak its protocols"),
    ("CONTRIBUTING.md", r"\.venv/bin/pre-commit", "needs a clone, and downloads pre-commit"),
    ("docs/development/adding-a-setting.md", r".*config\.page|cp config\.yaml", "changes the "
     "checkout; tests.config.test_setting compares the page"),
    ("docs/installing.md", r"rm -rf build|ln -s /opt", "cleans up behind pip install"),
    ("docs/installing.md", r"tezio-signer keys$", "needs a board; tests.cli.test_boards"),
    ("docs/board-check.md", r"", "needs a board"),
    ("docs/deploying.md", r"useradd|systemctl|journalctl|cp deploy/systemd", "changes the machine; "
     "tests.campaigns.systemd does it in a container"),
    ("docs/deploying.md", r"supervisorctl|cp deploy/supervisor", "changes the machine; "
     "tests.interop.test_supervisor runs the shipped file"),
    ("docs/etcd.md", r"install |sh -c", "sets up an etcd member of the machine; "
     "tests.support.etcdcluster starts members with the same options"),
    ("docs/etcd.md", r".*etcdctl|export ETCDCTL", "needs etcdctl and a cluster of three machines; "
     "tests.interop.test_etcd does the same through the gateway"),
    ("docs/etcd.md", r"\(umask 077; openssl", "makes passwords for etcdctl"),
)  # fmt: skip
_MADE_WITH_MEMBERS = "https://signer-a:2379, https://signer-b:2379, https://witness:2379"
_CONFIG = f"""
policy:
    signing_keys:
        {TZ3}: {{allowed_ops: [block, attestation], auth_req: False, chains: [NetXdQprcVkpaWU]}}
    auth_key: {{pkh: tz3bhz3h8CXPeUF4gmsGrsyT7sJUcqhrWpVs}}
watermarks: {{store: "sqlite:/var/lib/tezio-signer/watermarks.sqlite"}}
"""
_SERVICE = f'{_CONFIG}listen: {{http: ["tcp:6732:interface=127.0.0.1"]}}\n'
_SYSTEM_CONFIG = "/etc/tezio-signer/config.yaml"
_MARK = (
    f"tezio-signer watermarks set --chain NetXdQprcVkpaWU --key {TZ3} --operation block --level "
)
_Test = TypeVar("_Test", bound=Callable[["CommandsTests"], Awaitable[None]])
_FOLLOWED: dict[tuple[str, str], str] = {}
"""The tests by the document and the heading of the section whose commands they run."""


def follows(document: str, heading: str) -> Callable[[_Test], _Test]:
    """Say that a test runs the commands of a section."""

    def remember(test: _Test) -> _Test:
        _FOLLOWED[document, heading] = test.__name__
        return test

    return remember


def _why_not(document: str, step: Step) -> str | None:
    for where, what, why in NOT_RUN:
        if where in ("", document) and re.match(what, step.command):
            return why
    return "checked below" if CAMPAIGN.match(step.command) else None


def _section(document: str, heading: str) -> Section:
    return section(documents()[document], heading)


class CommandsTests(TestCase):
    """The commands of the documents, in shells of their own."""

    timeout = 240  # many commands behind each other, on a machine with much else to do

    def setUp(self) -> None:
        self.directory = own_directory(self)
        self.session = Session(self, self.directory)

    async def follow(self, document: str, heading: str) -> None:
        """Run all commands of a section that are not in NOT_RUN."""
        await self.session.follow(self.steps(document, heading))

    def steps(self, document: str, heading: str) -> list[Step]:
        """The commands of a section that are not in NOT_RUN."""
        steps = _section(document, heading).steps()
        return [step for step in steps if _why_not(document, step) is None]

    async def shell(self, *commands: str) -> None:
        """Run commands that have to succeed."""
        await self.session.follow([Step(command, "") for command in commands])

    async def serve(self, *options: str) -> None:
        """Run a daemon with a simulated HSM, where the documents have theirs."""
        listening = f"tcp:{self.session.port}:interface=127.0.0.1"
        daemon = start_daemon(
            self, self.directory, "--simulate", *(options or ("--http", listening))
        )
        await daemon.says("HSM .* is ready")

    async def with_store(self) -> None:
        """Have the configuration of the service, and its store."""
        self.session.write(_SYSTEM_CONFIG, _SERVICE)
        self.session.export("TEZIO_SIGNER_CONFIG", _SYSTEM_CONFIG)
        self.session.path("/var/lib/tezio-signer").mkdir(parents=True)
        await self.shell("tezio-signer watermarks init")

    @follows("README.md", "Try it")
    async def test_readme(self) -> None:
        """The requests of README get the answers it gives; `make run` runs this daemon."""
        makefile = (ROOT / "Makefile").read_text()
        self.assertIn("tezio-signer run --simulate --config $(CONFIG)\n", makefile)
        await self.serve()
        await self.follow("README.md", "Try it")

    @follows("docs/installing.md", "Install")
    async def test_version(self) -> None:
        """The installed signer says its version."""
        await self.follow("docs/installing.md", "Install")

    @follows("docs/installing.md", "Write your configuration")
    @follows("docs/installing.md", "Create the store, and check")
    async def test_first_configuration(self) -> None:
        """A copy of the sample has a store made, is checked, and runs, here without a board."""
        await self.follow("docs/installing.md", "Write your configuration")
        await self.follow("docs/installing.md", "Create the store, and check")

    @follows("docs/listening.md", "The socket protocol")
    async def test_sockets(self) -> None:
        """A daemon listens for the socket protocol at both places."""
        await self.shell("tezio-signer watermarks init")
        steps = self.steps("docs/listening.md", "The socket protocol")
        await self.session.follow(
            steps, {"unix:/run/tezio-signer/": "unix:"}
        )  # too long a path here

    @follows("docs/listening.md", "TLS, client certificates and a token")
    async def test_tls(self) -> None:
        """A client with a certificate and the token is served, others are not."""
        steps = self.steps("docs/listening.md", "TLS, client certificates and a token")
        await self.session.follow(steps[:4])
        [settings] = _section("docs/listening.md", "TLS, client certificates and a token").blocks(
            "yaml"
        )
        self.session.write("tls.yaml", f"{_CONFIG}\n{settings}".replace("auth_req: True", ""))
        await self.serve("--config", "tls.yaml")
        await self.session.follow(steps[4:])

    @follows("docs/audit.md", "Verify it")
    @follows("docs/audit.md", "With other programs")
    async def test_audit(self) -> None:
        """An audit log verifies with the signer's command, and with sha256sum and jq."""
        if which("jq") is None:
            raise SkipTest("there is no jq")
        page, log = "docs/audit.md", self.session.path("audit.jsonl")
        config = self.session.path("config.yaml")
        config.write_text(f"{config.read_text()}\naudit: {{file: audit.jsonl}}\n")
        lines = log_of(9)
        log.write_bytes(b"".join(lines))
        await self.follow(page, "Verify it")
        await self.follow(page, "With other programs")
        _, by_hand, *_ = self.steps(page, "With other programs")
        lines[3] = lines[3].replace(b"2026", b"2025")
        lines[7:] = lines[8:]
        log.write_bytes(b"".join(lines))
        found = "line 4 was changed\nline 5 does not follow\nline 9 does not follow\n9:…"
        changed = [evolve(step, output=found) for step in (by_hand,)]
        await self.session.follow(changed)

    @follows("docs/boards.md", "A simulated board")
    async def test_simulated_board(self) -> None:
        """A simulated board runs alone."""
        await self.follow("docs/boards.md", "A simulated board")

    @follows("docs/deploying.md", "Running it as a service")
    async def test_service(self) -> None:
        """The files of a service are put where they belong, and the store is made in its place."""
        self.session.write("local/config.yaml", _SERVICE)
        self.session.path("/etc").mkdir()
        await self.follow("docs/deploying.md", "Running it as a service")

    @follows("docs/policy.md", "Why was it refused?")
    async def test_explain(self) -> None:
        """A payload that a key may not sign is explained."""
        await self.with_store()
        await self.follow("docs/policy.md", "Why was it refused?")

    @follows("docs/watermarks.md", "Watermarks")
    @follows("docs/watermarks.md", "Commands")
    @follows("docs/watermarks.md", "Raise")
    @follows("docs/watermarks.md", "Look")
    @follows("docs/watermarks.md", "Lower")
    @follows("docs/watermarks.md", "Export")
    async def test_watermarks(self) -> None:
        """Marks are listed, raised, lowered and exported."""
        page = "docs/watermarks.md"
        await self.with_store()
        await self.follow(page, "Watermarks")
        await self.follow(page, "Commands")
        await self.follow(page, "Raise")
        await self.follow(page, "Look")
        [lower] = self.steps(page, "Lower")
        typed = f"lower it: {TZ3}\n"  # the terminal shows it, not the command
        self.assertIn(typed, lower.output)
        await self.session.follow(
            [
                evolve(
                    lower,
                    command=f"echo {TZ3} | {lower.command}",
                    output=lower.output.replace(typed, "lower it: "),
                )
            ]
        )
        await self.follow(page, "Export")

    @follows("docs/watermarks.md", "When a backup is restored")
    async def test_backup(self) -> None:
        """An older copy of a store is refused, and so is a new one in its place."""
        store = "/var/lib/tezio-signer/watermarks.sqlite"
        older, made_anew, *cleared = self.steps("docs/watermarks.md", "When a backup is restored")
        await self.with_store()
        await self.shell(
            _MARK + "4999000", f"cp {store} backup", _MARK + "4999001", _MARK + "4999002"
        )
        await self.shell(f"cp backup {store}")
        await self.session.follow([older])
        await self.shell(f"mv {store} elsewhere")
        await self.session.follow([made_anew])
        await self.shell(f"mv elsewhere {store}")
        await self.session.follow(cleared)

    @follows("docs/watermarks.md", "octez-signer")
    @follows("docs/watermarks.md", "Import")
    async def test_from_octez_signer(self) -> None:
        """The marks of octez-signer are brought in."""
        await self._moving("octez-signer", self._octez_marks)
        self.session.path("/var/lib/tezio-signer/watermarks.sqlite.lock").unlink()
        self.session.path("/var/lib/tezio-signer/watermarks.sqlite").unlink()
        await self.shell("tezio-signer watermarks init")
        await self.follow("docs/watermarks.md", "Import")

    @follows("docs/watermarks.md", "Signatory")
    async def test_from_signatory(self) -> None:
        """The marks of Signatory are brought in."""

        def marks() -> None:
            text = f'{{"{TZ3}": {{"block": {{"level": 34, "round": 4}}}}}}'
            self.session.write("/var/lib/signatory/watermark_v2/NetXdQprcVkpaWU.json", text)

        await self._moving("Signatory", marks)

    async def _moving(self, heading: str, marks: Callable[[], None]) -> None:
        self.session.write(_SYSTEM_CONFIG, _SERVICE)
        self.session.export("TEZIO_SIGNER_CONFIG", _SYSTEM_CONFIG)
        self.session.path("/var/lib/tezio-signer").mkdir(parents=True)
        marks()
        await self.follow("docs/watermarks.md", heading)

    def _octez_marks(self) -> None:
        text = f'{{"NetXdQprcVkpaWU": {{"{TZ3}": {{"level": 4999999, "round": 1}}}}}}'
        for kind in ("block", "preattestation", "attestation"):
            self.session.write(f".tezos-signer/{kind}_high_watermarks", text)

    @follows("docs/etcd.md", "Certificates")
    async def test_etcd_certificates(self) -> None:
        """The certificates of the members and of the signers are made."""
        await self.follow("docs/etcd.md", "Certificates")

    @follows("docs/etcd.md", "The signers")
    @follows("docs/etcd.md", "Moving from SQLite")
    @follows("docs/etcd.md", "When marks are lost")
    async def test_etcd(self) -> None:
        """The store is made once; marks are moved into it, and raised in it."""
        cluster = await start_cluster(self)
        urls = ",".join(cluster.urls)
        members = {_MADE_WITH_MEMBERS: ", ".join(cluster.urls)}
        sqlite = "sqlite:/var/lib/tezio-signer/watermarks.sqlite"
        shared = _SERVICE.replace(sqlite, f"etcd:{urls}")
        await self.with_store()
        await self.shell(_MARK + "22199")
        self.session.write(_SYSTEM_CONFIG, shared)
        self.session.write("config.yaml", shared)
        self.session.write("sqlite.yaml", _SERVICE)
        await self.session.follow(self.steps("docs/etcd.md", "The signers"), members)
        moving = {**members, "/etc/tezio-signer/watermarks": "/var/lib/tezio-signer/watermarks"}
        await self.session.follow(self.steps("docs/etcd.md", "Moving from SQLite"), moving)
        lost = {**members, "there was none": "…"}
        await self.session.follow(self.steps("docs/etcd.md", "When marks are lost"), lost)


class CompleteTests(SynchronousTestCase):
    """What is run, and what is not."""

    def test_all_commands_are_run(self) -> None:
        """Each command is run by a test, or is named with the reason why not."""
        for document, text in documents().items():
            for found in sections(text):
                for step in found.steps():
                    if _why_not(document, step) is None:
                        self.assertIn(
                            (document, found.heading),
                            _FOLLOWED,
                            f"{step.command!r} is neither run nor in NOT_RUN",
                        )

    def test_all_reasons_are_needed(self) -> None:
        """Nothing is in NOT_RUN that no document has, and no test is for a section without."""
        for where, what, _ in NOT_RUN:
            commands = [
                step.command
                for document, text in documents().items()
                if where in ("", document)
                for found in sections(text)
                for step in found.steps()
            ]
            self.assertTrue(any(re.match(what, command) for command in commands), what)
        for document, heading in _FOLLOWED:
            self.assertTrue(_section(document, heading).steps(), heading)
