"""The state of a simulated SES, and of the queues that its events go to."""

from dataclasses import dataclass, field

from mailroom.simulator.account import Account, CallRates, Usage
from mailroom.simulator.configuration_sets import ConfigurationSets
from mailroom.simulator.faults import Faults
from mailroom.simulator.feed import Feed
from mailroom.simulator.ledger import Ledger
from mailroom.simulator.queues import Queues
from mailroom.simulator.suppression import SuppressionList
from mailroom.simulator.templates import Templates


@dataclass(slots=True)
class Ses:
    """One account in one region. Each part guards itself against threads."""

    ledger: Ledger = field(default_factory=Ledger)
    faults: Faults = field(default_factory=Faults)
    account: Account = field(default_factory=Account)
    templates: Templates = field(default_factory=Templates)
    configuration_sets: ConfigurationSets = field(default_factory=ConfigurationSets)
    suppression: SuppressionList = field(default_factory=SuppressionList)
    feed: Feed = field(default_factory=Feed)
    queues: Queues = field(default_factory=Queues)
    usage: Usage = field(default_factory=Usage)
    call_rates: CallRates = field(default_factory=CallRates)

    def reset(self) -> None:
        """Be as at the start."""
        self.ledger.clear()
        self.faults.clear()
        self.account.reset()
        self.templates.reset()
        self.configuration_sets.reset()
        self.suppression.reset()
        self.feed.reset()
        self.queues.reset()
        self.usage = Usage()
        self.call_rates = CallRates()
