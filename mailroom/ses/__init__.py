"""Amazon SES: each request sent exactly once, and every answer understood. For the commands that send, and doctor."""

from mailroom.ses.account import account, connect_to_ask
from mailroom.ses.client import connect
from mailroom.ses.doctor import examine
from mailroom.ses.transport import SesTransport

__all__ = ["SesTransport", "account", "connect", "connect_to_ask", "examine"]
