"""The worlds that are searched: small ones to the end, larger ones as far as time goes, and one to break each rule."""

from tests.model.world import World

ALL_EVENTS = ("Send", "Bounce", "RF")

SMALL = {
    "hold": World(hold=True, garbles=True, events=("Send", "RF")),
    "resend": World(garbles=True, events=("Send", "RF")),
    "hold, three attempts": World(hold=True, garbles=True, attempts=3, events=("Send", "RF")),
    "foreign": World(hold=True, foreign=True, events=("Send",)),
    "foreign, resend": World(foreign=True, garbles=True, events=("Send", "RF")),
    "given back": World(returns=True, refuses=True, events=("Send",)),
    "settled twice": World(hold=True, garbles=True, repeats=True, refuses=True, events=("Send", "RF")),
    "untagged": World(garbles=True, tagged=False, workers=1, events=("Send", "RF")),
    "rejects": World(hold=True, rejects=True, garbles=True, attempts=3, workers=1, events=("Send", "RF", "Reject")),
    "both contradictions": World(
        rejects=True, garbles=True, accepts=False, hold=True, workers=1, attempts=3, events=("RF", "Reject")
    ),
    "bars": World(bars=True, hold=True, events=("Send",)),
    "bounces": World(moves=True, workers=1, events=("Bounce",)),
    "prune": World(garbles=True, prunes=True, events=("Send", "RF")),
    "a person": World(hold=True, workers=1, garbles=True, acts=1, events=("Send", "RF")),
    "two tokens": World(tokens=2, workers=1, hold=True, crashes=False, events=("Send",)),
    "failover": World(failovers=1, workers=1, garbles=True, crashes=False, events=("Send",)),
    "overlap, hold": World(overlap=1, hold=True, garbles=True, events=("Send", "RF")),
    "overlap, resend": World(overlap=1, garbles=True, events=("Send", "RF")),
    "overlap of three": World(overlap=2, hold=True, garbles=True, events=("Send", "RF")),
}

# By the number of a rule: a world, as small as can be, in which something breaks without it.
_LOST = World(failovers=1, crashes=False, loses=False, rescues=False)
WITHOUT = {
    1: _LOST,
    2: World(failovers=1, loses=False, events=("Send",)),
    3: World(failovers=1, loses=False, crashes=False, events=("Send",)),
    4: _LOST,
    5: World(failovers=1, loses=False, crashes=False, rescues=False, events=("Send",)),
    6: _LOST,
    7: World(workers=1, loses=False, garbles=True, accepts=False, rescues=False, events=("Send", "RF")),
    8: World(workers=1, loses=False, garbles=True, tagged=False, rescues=False, events=("RF",)),
    9: World(workers=1, loses=False, garbles=True, rescues=False, events=("RF",)),
    10: World(loses=False, crashes=False, garbles=True, events=("RF",), attempts=3),
    11: World(workers=1, loses=False, crashes=False, garbles=True, accepts=False, rescues=False, events=("RF",)),
    12: World(workers=1, hold=True, loses=False, events=("Bounce",)),
    13: World(workers=1, hold=True, loses=False, events=("Send",)),
    14: World(workers=1, hold=True, loses=False, garbles=True, events=("RF",)),
    15: World(hold=True, attempts=3, loses=False, garbles=True, repeats=True, events=("RF",)),
    16: World(attempts=1, loses=False, crashes=False),
    17: World(workers=1, loses=False, garbles=True, accepts=False, events=("RF",)),
    18: World(workers=1, loses=False, events=("Send",)),
    19: World(workers=1, loses=False, moves=True, events=("Bounce",)),
    20: World(workers=1, loses=False, garbles=True, prunes=True, rescues=False, events=("RF",)),
    21: World(loses=False, crashes=False, rescues=False, returns=True),
}
BASIC_WITHOUT = World(loses=False, overlap=1)

LARGE = {
    "hold, an act": World(hold=True, garbles=True, repeats=True, refuses=True, acts=1, events=ALL_EVENTS),
    "hold, two acts": World(hold=True, garbles=True, repeats=True, refuses=True, acts=2, events=("Send", "RF")),
    "settled twice, three attempts": World(
        hold=True, garbles=True, repeats=True, refuses=True, attempts=3, events=("Send", "RF")
    ),
    "resend, an act": World(garbles=True, repeats=True, refuses=True, acts=1, events=("Send", "RF")),
    "resend, three attempts": World(garbles=True, repeats=True, attempts=3, events=("Send", "RF")),
    "three workers": World(garbles=True, workers=3, attempts=3, events=("Send", "RF")),
    "two tokens, hold": World(tokens=2, hold=True, garbles=True, crashes=False, events=("Send", "RF")),
    "two tokens, resend": World(tokens=2, garbles=True, crashes=False, events=("Send", "RF")),
    "failover, resend": World(failovers=1, garbles=True, events=("Send", "RF")),
    "two failovers": World(failovers=2, garbles=True, crashes=False, events=("Send", "RF")),
    "failover, hold": World(failovers=1, hold=True, garbles=True, events=("Send", "RF")),
    "failover, another account": World(failovers=1, other_account=True, garbles=True, events=("Send", "RF")),
    "overlap, resend": World(overlap=1, garbles=True, events=("Send", "RF")),
    "overlap, hold": World(overlap=1, hold=True, garbles=True, events=("Send", "RF")),
    "overlap, hold, an act": World(overlap=1, hold=True, acts=1, garbles=True, events=("Send", "RF")),
    "overlap of three, hold": World(overlap=2, hold=True, garbles=True, events=("Send", "RF")),
    "overlap of three, resend": World(overlap=2, garbles=True, events=("Send", "RF")),
    "overlap, prune": World(overlap=1, prunes=True, garbles=True, events=("Send", "RF")),
}
