"""The transport through Amazon SES: one request for a batch, sent exactly once, and every answer understood."""

from mailroom.ses.account import account, connect_to_ask
from mailroom.ses.client import connect
from mailroom.ses.doctor import examine
from mailroom.ses.transport import SesTransport

__all__ = ["SesTransport", "account", "connect", "connect_to_ask", "examine"]
