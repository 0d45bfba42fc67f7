"""Search the worlds at length: `python -m tests.model --states 1000000 --worlds failover`."""

import argparse
import sys

from tests.model.search import search
from tests.model.worlds import LARGE, SMALL


def main() -> int:
    """Return 1 if something broke. States are kept by hash, and whole only while they are still to be visited."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=1_000_000, help="most states of a world")
    parser.add_argument("--worlds", default="", help="those with this in their name")
    parser.add_argument("--small", action="store_true", help="the small ones too")
    options = parser.parse_args()
    worlds = (SMALL if options.small else {}) | LARGE
    broken = False
    for name, world in worlds.items():
        if options.worlds in name:
            found = search(world, most=options.states, exact=False)
            print(f"{name}: {found}", flush=True)
            broken = broken or bool(found.broken)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
