"""What a client may be told: every refusal is a `Refused` of one kind.

The kinds carry the HTTP status of the design document and a short `reason`,
bounded in number, by which refusals are counted and logged.
"""

from typing import ClassVar, Self

FAULT = "internal error of the signer, see its log"
"""What a client is told of a fault of ours."""

READING = "reading"
"""In the place of the rule that refuses: what came cannot be read."""
WATERMARK = "watermark"
"""The rule of the watermarks, and of the store that they are in."""
HSM = "hsm"
"""In the place of a rule: the boards, which refuse, are away, or take too long."""
STOPPING = "stopping"
"""In the place of a rule: the daemon is being stopped."""
AUDIT = "audit"
"""In the place of a rule: the audit log, which is required and cannot be written."""


class Refused(Exception):
    """A request that is not served; `str()` is one sentence for the client.

    :ivar rule: the name of the rule that refuses; empty until it is known.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "refused"
    rule: str = ""

    def by(self, rule: str) -> Self:
        """Return this refusal, which is that of a rule unless it has one already."""
        self.rule = self.rule or rule
        return self


class Malformed(Refused):
    """The request cannot be read: bad JSON, hex, Base58Check or payload."""

    status = 400
    reason = "malformed"


class Unauthenticated(Refused):
    """The authentication signature or the request token is missing or wrong."""

    status = 401
    reason = "unauthenticated"


class Forbidden(Refused):
    """The policy does not allow this peer, key, chain or operation."""

    status = 403
    reason = "forbidden"


class NotAdmitted(Forbidden):
    """The address, or the user at a Unix socket, may ask for nothing; the connection is closed."""


class UnknownKey(Refused):
    """No signing key of the configuration has this public key hash."""

    status = 404
    reason = "unknown_key"


class Conflict(Refused):
    """A watermark forbids it: the host's or the device's own."""

    status = 409
    reason = "watermark"


class TooLarge(Refused):
    """The body or the payload is larger than can be served."""

    status = 413
    reason = "too_large"


class TooMany(Refused):
    """A client asks for more signatures than a limit allows."""

    status = 429
    reason = "too_many"


class Unavailable(Refused):
    """The HSM or the watermark store is away; trying again may help."""

    status = 502
    reason = "unavailable"


class OperatorError(Exception):
    """Something that the operator can put right; `str()` is one line that says how."""


class StartupError(OperatorError):
    """The daemon cannot start."""


class InUseError(StartupError):
    """Somebody listens there already: another program, or this very daemon."""
