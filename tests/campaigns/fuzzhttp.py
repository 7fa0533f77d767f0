"""HTTP, fuzzed with whole connections: what reaches the device, and what comes back."""

import json
from random import Random

from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock

from tests.campaigns.fuzzlistener import (
    PKHS,
    Connection,
    Listener,
    Manner,
    check_asked,
    key_and_payload,
)
from tests.campaigns.fuzztargets import Wrong, gist
from tests.campaigns.mutation import mutated, pieces
from tests.campaigns.wellformed import (
    HttpAnswer,
    HttpRequest,
    asked_over_http,
    http_answers_in,
    http_requests_in,
)
from tests.support import octezclient
from tests.support.octezclient import HSM_AUTH_KEY
from tests.support.vectors import AUTHENTICATION, PAYLOADS, TZ1, TZ2, TZ3
from tezio_signer.listeners.httpsite import SignerSite
from tezio_signer.resource import SignerResource
from tezio_signer.signer import Signer

_PIPELINED = 16
"""Requests that may come right behind one another; with more, the connection may be closed."""
_HEADERS = (
    *("", "", "", "Expect: 100-continue\r\n", "Connection: close\r\n", "X: y\r\n folded\r\n"),
    *("Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n", "X : y\r\n", "X: y\n"),
)
_STATUSES = {100, 200, 400, 401, 403, 404, 405, 409, 413, 502}


class HttpTarget:
    """All bytes of a connection to the HTTP listener."""

    tokens = [
        *(
            b"GET ",
            b"POST ",
            b"HEAD ",
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
        ),
        *(b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
        *(b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n", b"Host: x\r\n", b"\r\n "),
        *(b"Upgrade: h2c\r\n", b"Content-Type: multipart/form-data\r\n", b"Range: bytes=0-\r\n"),
        *(b"If-None-Match: *\r\n", b"Content-Length: 0\r\n", b"0\r\n\r\n", b";x", b"ffffffff\r\n"),
        *(b"/keys/", b"//", b"/../", b"%2f", b"%00", b"%ff", b"*", b"http://h", b"?", b"&", b"="),
        *(b"authentication=", b"version=3", b"/known_keys", b"/authorized_keys", b'"', b"\\u0030"),
        *(b"9" * 30, b"9" * 5000, b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 2000, b"\x00"),
        *(pkh.encode() for pkh in PKHS),
        *(str(value).encode() for value in AUTHENTICATION.values()),
    ]
    longest = 8192

    def __init__(self) -> None:
        self.listener = Listener(self._site)
        noop, block = PAYLOADS["noop"], PAYLOADS["block_unlocked_nononce_on"]
        proof = HSM_AUTH_KEY.authenticate(str(TZ2), noop)
        routes = ("/", "/authorized_keys", "/known_keys", f"/keys/{TZ1}", "/nowhere")
        self.seeds = [
            *(octezclient.get("h", route) for route in routes),
            octezclient.get("h", f"/bls_prove_possession/{TZ1}"),
            octezclient.post("h", f"/keys/{TZ1}?version=3", noop),
            octezclient.post("h", f"//keys/{TZ3}", block),
            octezclient.post("h", f"/keys/{TZ2}?authentication={proof}&version=3", noop),
            _plain("POST", f"/keys/{TZ3}", PAYLOADS["att_dal_5"], "Expect: 100-continue\r\n"),
            _plain("POST", f"/keys/{TZ2}", noop) + octezclient.get("h", "/"),
            _plain("HEAD", "/known_keys", b"") + _plain("POST", f"/keys/{TZ3}", PAYLOADS["preatt"]),
        ]

    @staticmethod
    def _site(signer: Signer, clock: Clock) -> IProtocolFactory:
        return SignerSite(SignerResource(signer).app.resource(), None, clock)

    def made(self, random: Random, data: bytes) -> bytes:
        if random.randrange(2):
            requests = [_http_request(random) for _ in range(random.choice((1, 1, 2, 3)))]
            data = b"".join(requests) * random.choice((1, 1, 1, 2))
        return mutated(random, data, self.seeds, self.tokens) if random.randrange(4) else data

    def run(self, data: bytes) -> str:
        connection = self.listener.connect(data)
        check_asked(connection, asked_over_http(data))
        said = []
        answers = list(http_answers_in(connection.written))
        _check_answered(
            connection,
            [answer for answer in answers if answer.status != 100],
            list(http_requests_in(data)),
        )
        for status, body in ((answer.status, answer.body) for answer in answers):
            if status not in _STATUSES:
                raise Wrong(f"answered {status} {body!r}")
            said.append(str(status))
            if status == 200 and b'"signature"' in body:
                if json.loads(body)["signature"] not in connection.made:
                    raise Wrong(f"a signature that the device has not made: {body!r}")
            elif status >= 400 and body:
                said.append(gist(octezclient.message_in(body)))
            elif status >= 400 and not connection.closed and b"HEAD" not in data:
                raise Wrong(f"{status} without a sentence, and the connection stays open")
        return " ".join(said[:3]) + f" {len(connection.asked)}"


def _check_answered(
    connection: Connection, answers: list[HttpAnswer], requests: list[HttpRequest]
) -> None:
    """Raises Wrong unless all requests have their answers, up to one that ends the connection."""
    client, closed = connection.client, connection.closed
    last = answers[-1] if answers else None
    refused = last is not None and last.closes and last.status in (400, 413)
    # Besides the requests that can be read in one way only, one may be refused for what it is.
    if len(answers) > len(requests) + refused:
        raise Wrong(f"{len(answers)} answers to {len(requests)} requests")
    if client is Manner.LEAVING or (client is Manner.SLOW and closed):
        return
    if len(answers) < len(requests):
        clogged = last is not None and client is Manner.CLOGGED
        if not closed or not (refused or clogged or len(answers) >= _PIPELINED):
            raise Wrong(
                f"{len(answers)} answers to {len(requests)} requests of a client that "
                f"{client.value}"
            )
    # Who is refused for the length of his body may send it first.
    ends = last is not None and last.closes and last.status != 413
    if not closed and (ends or (requests and requests[-1].closes)):
        raise Wrong("the connection stays open after its last answer")


def _plain(method: str, target: str, payload: bytes, headers: str = "") -> bytes:
    body = f'"{payload.hex()}"' if payload else ""
    length = f"Content-Length: {len(body)}\r\n" if payload else ""
    return f"{method} {target} HTTP/1.1\r\nHost: h\r\n{length}{headers}\r\n{body}".encode()


def _http_request(random: Random) -> bytes:
    pkh, payload = key_and_payload(random)
    path = f"/keys/{pkh}"
    if pkh == str(TZ2) and random.randrange(4):
        path += f"?authentication={HSM_AUTH_KEY.authenticate(pkh, payload)}"
    if random.randrange(2):
        return _plain("POST", path, payload, random.choice(_HEADERS))
    body = b'"%b"' % payload.hex().encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(body))
    version = random.choice("1110")
    more = random.choice(("", "", "Transfer-Encoding: chunked\r\n", "Content-Length: 4\r\n"))
    head = f"POST {path} HTTP/1.{version}\r\nTransfer-Encoding: chunked\r\n{more}\r\n"
    return head.encode() + chunks + b"0\r\n\r\n"
