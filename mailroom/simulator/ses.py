"""The state of a simulated SES."""

from dataclasses import dataclass, field

from mailroom.simulator.account import Account, Usage
from mailroom.simulator.faults import Faults
from mailroom.simulator.ledger import Ledger
from mailroom.simulator.templates import Templates


@dataclass(slots=True)
class Ses:
    """One account in one region. Each part guards itself against threads."""

    ledger: Ledger = field(default_factory=Ledger)
    faults: Faults = field(default_factory=Faults)
    account: Account = field(default_factory=Account)
    templates: Templates = field(default_factory=Templates)
    usage: Usage = field(default_factory=Usage)

    def reset(self) -> None:
        """Be as at the start."""
        self.ledger.clear()
        self.faults.clear()
        self.account.reset()
        self.templates.reset()
        self.usage = Usage()
