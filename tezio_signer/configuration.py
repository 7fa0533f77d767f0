"""What the daemon goes by: one frozen value, which is replaced as a whole while it runs."""

from attrs import frozen

from tezio_signer.config.settings import Settings
from tezio_signer.policy import Policy


@frozen
class Configuration:
    """The settings that are in force, and the rules that were made of them.

    A request is served by one of them from its beginning to its end. What is asked of the signer
    for it before it is submitted (whether the peer may ask, the token) is asked in the same turn
    of the reactor, in which nothing replaces the configuration; what comes later is closures over
    these settings.
    """

    settings: Settings
    policy: Policy
