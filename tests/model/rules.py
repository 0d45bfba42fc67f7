"""The rules of the protocol, each a switch, and the property that breaks without it."""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """Which rules are kept. The numbers are those of the list below."""

    fence: bool = True
    fence_in_tag: bool = True
    together: bool = True
    secret: bool = True
    bound: bool = True
    any_attempt: bool = True
    failure_is_no_acceptance: bool = True
    failure_is_kept: bool = True
    sweep_takes_back: bool = True
    of_that_message: bool = True
    costs_an_attempt: bool = True
    events_prove: bool = True
    free_accepted: bool = True
    free_never_out: bool = True
    only_sweep_frees: bool = True
    amend: bool = True
    retry_asks_record: bool = True
    unique: bool = True
    destination: bool = True
    pruned_with_token: bool = True
    returned_is_unsent: bool = True
    # What goes without saying: without these the checker must bite at once.
    rescue_closes: bool = True
    rescue_gives_back: bool = True
    rescue_logs: bool = True
    asked_under_locks: bool = True

    def without(self, rule: str) -> "Rules":
        return replace(self, **{rule: False})


ALL = Rules()

# Number: the rule's switch, what it says, and the property that breaks without it.
NUMBERED = {
    1: ("fence", "A batch is closed by its random fence, not by its id", "2"),
    2: ("fence_in_tag", "A mail bears the fence of its batch, and log and events name a batch by it", "2"),
    3: ("together", "An event counts only if its token and fence are in flight or in the log together", "2"),
    4: ("secret", "A late answer counts only for a token of the same secret", "2"),
    5: ("bound", "A late row of another mail makes no batch known", "2"),
    6: ("any_attempt", "The claim looks for an acceptance whatever the attempt", "11"),
    7: ("failure_is_no_acceptance", "A message that failed to render is no acceptance", "5"),
    8: ("failure_is_kept", "A rendering failure is kept even if nothing here knows it", "2"),
    9: ("sweep_takes_back", "Take-back is a sweep over the record, not an act of the event", "2"),
    10: ("of_that_message", "It takes back what is sent of that message, not of the token", "3"),
    11: ("costs_an_attempt", "It costs an attempt", "5"),
    12: ("events_prove", "Every event but rendering failure and reject proves an acceptance", "4"),
    13: ("free_accepted", "What is held and accepted becomes due", "4"),
    14: ("free_never_out", "So does what is held when each of its unconfirmed messages failed to render", "4b"),
    15: ("only_sweep_frees", "Only the sweep frees, a settlement does not", "7"),
    16: ("amend", "What failed becomes sent when an acceptance is on record", "9"),
    17: ("retry_asks_record", "A retry is refused by what is on record, not by any row `sent`", "10"),
    18: ("unique", "An event is kept once", "8"),
    19: ("destination", "Suppressed is the address that was mailed, not the account's of now", "6"),
    20: ("pruned_with_token", "Evidence is pruned with its token, and never while that waits or is in flight", "2"),
    21: ("returned_is_unsent", "What was perhaps given back is never sent", "3"),
}

BASIC = {
    "rescue_closes": ("A rescue closes the batch", "1"),
    "rescue_gives_back": ("A rescue gives the jobs back", "1"),
    "rescue_logs": ("A rescue leaves an unconfirmed row", "3"),
    "asked_under_locks": ("A claim takes what is still there under its lock, not what its snapshot showed", "1"),
}

assert {rule for rule, _, _ in NUMBERED.values()} | set(BASIC) == {field.name for field in fields(Rules)}
