"""What is under way between daemons, boards and stores; the history says when it arrives."""

from collections.abc import Callable, Collection

from attrs import define


@define(eq=False)
class Message:
    """Something that was sent.

    :ivar what: for who reads a history.
    :ivar arrive: hands it over to the receiver.
    :ivar prompt: it arrives as soon as it is the first on its way; nothing happens to it.
    :ivar late: time may pass before it arrives.
    :ivar void: whether nobody waits for it any more, so that its arrival would do nothing.
    """

    what: str
    arrive: Callable[[], object]
    prompt: bool = False
    void: Callable[[], bool] = bool
    late: bool = False


class Network:
    """Ways by their names, as `d0>etcd`, each with its messages in the order of sending."""

    def __init__(self) -> None:
        self.ways: dict[str, list[Message]] = {}

    def send(self, way: str, message: Message) -> None:
        """Put a message on its way."""
        self.ways.setdefault(way, []).append(message)

    def take(self, way: str, number: int) -> Message | None:
        """Remove a message, if it is there."""
        messages = self.ways.get(way, [])
        if not 0 <= number < len(messages):
            return None
        message = messages.pop(number)
        if not messages:
            del self.ways[way]
        return message

    def peek(self, way: str, number: int) -> Message | None:
        """A message that stays under way."""
        messages = self.ways.get(way, [])
        return messages[number] if 0 <= number < len(messages) else None

    def is_late(self, way: str) -> bool:
        """Whether nothing can arrive on a way before time passes."""
        messages = self.ways[way]
        # Each connection to etcd is one of many; everything else keeps its order.
        return all(m.late for m in messages) if "etcd" in way else messages[0].late

    def first_prompt(self, held: Collection[str]) -> Message | None:
        """Remove a message whose turn has come and that may not wait; drop void ones.

        :param held: who takes no messages.
        """
        for way, messages in list(self.ways.items()):
            if held and way.rpartition(">")[2] in held:
                continue
            while messages and messages[0].void():
                messages.pop(0)
            if not messages:
                del self.ways[way]
            elif messages[0].prompt:
                return self.take(way, 0)
        return None

    def clear(self, way: str) -> None:
        """Lose everything that is on a way."""
        self.ways.pop(way, None)
