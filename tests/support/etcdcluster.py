"""Real etcd members on loopback: started, paused, killed and started again.

They are Debian's etcd-server, and have nothing to do with the service that this package
starts: they listen on free ports, and keep their data where the test says.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree, rmtree
from signal import SIGCONT
from socket import socket
from typing import Any, cast

import treq
from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, TimeoutError, gatherResults  # noqa: A004
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.trial.unittest import TestCase
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from tests.support.certificates import Authority, Certified
from tests.support.daemonprocess import Process, reserve_port, spawn
from tests.support.harness import reactor
from tests.support.programs import command
from tests.support.tcpproxy import owns

PATIENCE = 30.0
"""Seconds for members to start or to elect a leader, on a machine with much else to do."""
_ANSWER_TIME = 2.0
_READY = "ready to serve client requests|serving client traffic"


@frozen
class Tls:
    """Members that are spoken to by TLS, and only by clients of the same authority."""

    authority: Authority
    server: Certified
    client: Certified

    @classmethod
    def make(cls, directory: Path) -> "Tls":
        """An authority and its certificates, in files of a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        authority = Authority(directory)
        return cls(
            authority, authority.certify_member("server"), authority.certify_member("client")
        )

    @property
    def options(self) -> list[str]:
        """What a member is started with."""
        return [
            f"--cert-file={self.server.certificate}",
            f"--key-file={self.server.key}",
            f"--trusted-ca-file={self.authority.path}",
            "--client-cert-auth",
        ]


@implementer(IPolicyForHTTPS)
class _ClientCertificate:
    def __init__(self, tls: Tls) -> None:
        client = tls.client.certificate.read_bytes() + tls.client.key.read_bytes()
        self._client = PrivateCertificate.loadPEM(client)
        self._trusted = Certificate.loadPEM(tls.authority.path.read_bytes())

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        trusted = trustRootFromCertificates([self._trusted])
        return optionsForClientTLS(hostname.decode("ascii"), trusted, self._client)


class GatewayError(Exception):
    """An answer other than 200, whose text this has, or none."""


class Gateway:
    """The JSON gateway of a member.

    :ivar token: what `/v3/auth/authenticate` has given, if it was asked.
    """

    def __init__(self, url: str, tls: Tls | None = None) -> None:
        policy = BrowserLikePolicyForHTTPS() if tls is None else _ClientCertificate(tls)
        self._http = HTTPClient(Agent(reactor, policy))
        self._url = url
        self.token: str | None = None

    async def call(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Ask `/v3/…` something; keys and values are Base64, numbers are strings.

        :raises GatewayError: if etcd refuses, or does not answer in time.
        """
        answering = Deferred.fromCoroutine(self._call(path, body or {}))
        try:
            return await answering.addTimeout(_ANSWER_TIME, reactor)
        except (ConnectError, RequestTransmissionFailed, ResponseFailed, TimeoutError) as error:
            raise GatewayError(f"{self._url} did not answer {path}: {error!r}") from error

    async def _call(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        headers = Headers({} if self.token is None else {"Authorization": [self.token]})
        response = await self._http.post(f"{self._url}/v3/{path}", json=body, headers=headers)
        if response.code != 200:
            raise GatewayError(await treq.text_content(response))
        return cast("dict[str, Any]", await treq.json_content(response))


class Member:
    """One etcd and its data.

    :ivar client_port: where it listens for clients.
    :ivar peer_port: where it listens for the other members.
    :ivar advertised_port: where the others look for it; `peer_port`, unless it was set to
        that of a proxy before the cluster is started for the first time.
    :ivar process: the one that runs, or ran last.
    :ivar running: whether it was started, and neither stopped nor killed since.
    """

    def __init__(self, name: str, directory: Path, tls: Tls | None, options: Sequence[str]) -> None:
        self.name = name
        self._directory = directory
        self._options = options if tls is None else [*options, *tls.options]
        self._reserved = [reserve_port(), reserve_port()]
        self.client_port, self.peer_port = map(_port, self._reserved)
        self.advertised_port = self.peer_port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.client_port}"
        self.gateway = Gateway(self.url, tls)
        self.process: Process | None = None
        self.running = self.paused = False
        self._id: int | None = None

    async def start(self, members: Sequence["Member"]) -> None:
        """Start it, for the first time or again; it takes part in the cluster when this returns.

        :param members: all of the cluster.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        arguments = [
            command("etcd"),
            f"--name={self.name}",
            f"--data-dir={self._directory / self.name}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls=http://127.0.0.1:{self.peer_port}",
            f"--initial-advertise-peer-urls={self._advertised}",
            f"--initial-cluster={','.join(f'{m.name}={m._advertised}' for m in members)}",
            "--logger=zap",
            "--log-outputs=stderr",
            "--pre-vote",  # as docs/etcd.md has it; without, whoever comes back deposes the leader
            *self._options,
        ]
        # etcd takes options from the environment too, and ends if they contradict its own.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        self.process = spawn(arguments, self._directory, ours)
        self.running, self.paused = True, False
        await self.process.says(_READY).addTimeout(PATIENCE, reactor)

    @property
    def _advertised(self) -> str:
        return f"http://127.0.0.1:{self.advertised_port}"

    @property
    def able(self) -> bool:
        """Whether it runs and is not paused."""
        return self.running and not self.paused

    def pause(self) -> None:
        """Stop it where it is; its connections stay open, and nothing is answered."""
        self._process.send("STOP")
        self.paused = True

    def resume(self) -> None:
        """Let it go on after a pause."""
        self._process.send(SIGCONT)
        self.paused = False

    def kill(self) -> Deferred[int]:
        """End it at once; fires when it has ended."""
        self.running = self.paused = False
        return self._process.kill()

    def stop(self) -> Deferred[int]:
        """End it in good order; fires when it has ended."""
        self.running = False
        self._process.send("TERM")
        return self._process.exits()

    def copy_data(self, to: Path) -> None:
        """Copy its data, while it does not run."""
        copytree(self._directory / self.name, to)

    def restore_data(self, copy: Path) -> None:
        """Put such a copy in the place of its data, while it does not run."""
        rmtree(self._directory / self.name)
        copytree(copy, self._directory / self.name)

    def close(self) -> None:
        """Give its ports to others, when it is not started again."""
        for reserved in self._reserved:
            reserved.close()

    @property
    def _process(self) -> Process:
        assert self.process is not None, f"{self.name} was never started"
        return self.process

    def owns(self, port: int, to: int) -> bool:
        """Whether it has a connection from this port of loopback to that one."""
        process = self.process and self.process.transport
        return bool(process and process.pid and owns(process.pid, port, to))

    async def status(self) -> dict[str, Any]:
        """What it knows of itself and of its leader, by `/v3/maintenance/status`."""
        return await self.gateway.call("maintenance/status")

    async def id(self) -> int:
        """The number that the members know it by; the same for as long as it has its data."""
        if self._id is None:
            self._id = int((await self.status())["header"]["member_id"])
        return self._id


def _port(reserved: socket) -> int:
    port: int = reserved.getsockname()[1]
    return port


class Cluster:
    """Members that know each other: one, or three.

    :param options: further options of every member, as `--heartbeat-interval=20`.
    """

    def __init__(
        self, directory: Path, size: int = 1, tls: Tls | None = None, options: Sequence[str] = ()
    ) -> None:
        self.members = [Member(f"m{n}", directory, tls, options) for n in range(size)]

    @property
    def urls(self) -> list[str]:
        """Where clients reach the members."""
        return [member.url for member in self.members]

    async def start(self) -> None:
        """Start every member that does not run; they can be written to when this returns."""
        await gatherResults(
            [
                Deferred.fromCoroutine(member.start(self.members))
                for member in self.members
                if not member.running
            ],
            consumeErrors=True,
        )

    async def leader(self) -> Member | None:
        """The member that leads now; None if there is none, as in an election.

        Of several that believe to lead, it is the one of the latest term.
        """
        asked = [member for member in self.members if member.able]
        answers = await gatherResults([Deferred.fromCoroutine(_status(m)) for m in asked])
        leading = {
            int(status["raftTerm"]): member
            for member, status in zip(asked, answers, strict=True)
            if status is not None and status.get("leader") == status["header"]["member_id"]
        }
        return leading[max(leading)] if leading else None

    async def require_passwords(self, user: str, password: str) -> None:
        """Let nobody in but this user, who may read and write everything, and root."""
        gateway = self.members[0].gateway
        for name in ("root", user):
            await gateway.call("auth/user/add", {"name": name, "password": password})
            await gateway.call("auth/role/add", {"name": name})
            await gateway.call("auth/user/grant", {"user": name, "role": name})
        everything = {"permType": "READWRITE", "key": "AA==", "range_end": "AA=="}
        await gateway.call("auth/role/grant", {"name": user, "perm": everything})
        await gateway.call("auth/enable")

    async def stop(self) -> None:
        """End every member, paused ones too."""
        await gatherResults([member.kill() for member in self.members if member.process])
        for member in self.members:
            member.close()


async def _status(member: Member) -> dict[str, Any] | None:
    try:
        return await member.status()
    except GatewayError:
        return None


async def start_cluster(
    test: TestCase,
    size: int = 1,
    tls: Tls | None = None,
    options: Sequence[str] = (),
) -> Cluster:
    """A cluster that runs until the test ends; skips the test where etcd is missing."""
    command("etcd")
    cluster = Cluster(Path(test.mktemp()).absolute(), size, tls, options)
    test.addCleanup(lambda: Deferred.fromCoroutine(cluster.stop()))
    await cluster.start()
    return cluster
