"""Whether who has sent a message has one of the roles that its declaration names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from actors.actor import ANYONE
from actors.errors import NotAllowed
from actors.guard.limited_log import LimitedLog
from actors.identity.caller import Caller
from actors.messages.schema import Message

Roles = Callable[[Caller], Collection[str]]

log = logging.getLogger(__name__)


def check_role(roles: Roles | None, sender: Caller, message: Message, lines: LimitedLog) -> None:
    """Refuse a message that its sender may not send; it leaves one line, with who and what, never with contents.

    Args:
        roles: of a sender; None: everybody may send everything.
        sender: of the message.
        message: what was sent.
        lines: takes the line.

    Raises:
        NotAllowed: it may be sent by others, or by nobody.
    """
    if roles is None or ANYONE in message.by:
        return
    held = roles(sender)
    if message.by.isdisjoint(held):
        lines.write(log, logging.WARNING, f"refused {message.label}", "refused: %s sent by %s", message.label, sender.placed)
        raise NotAllowed(
            f"{message.label} may be sent by: {', '.join(sorted(message.by)) or 'nobody outside of its process'}; you are {sender},"
            f" here: {', '.join(sorted(held)) or 'nobody that is known'}"
        )
