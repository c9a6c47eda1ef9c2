"""Who does something: a client of the API, or a user at the shell."""

import os
import pwd
import socket
from dataclasses import dataclass

from app.audit.tables import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who, and from where. The columns of the table `audit` explain the fields."""

    channel: Channel
    client: str
    address: str | None = None
    request_id: str | None = None


def at_shell() -> Actor:
    """The user of this process and the host; behind sudo, the user who called it too.

    The user before sudo and the address come from environment variables, which anyone at a shell can set. They are no
    proof.
    """
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under any number
        user = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER")
    name = f"{behind} as {user}" if behind and behind != user else user
    session = os.environ.get("SSH_CONNECTION", "").split()
    return Actor(channel=Channel.CLI, client=f"{name}@{socket.gethostname()}", address=session[0] if session else None)
