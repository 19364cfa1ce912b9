"""`python -m exploration`: every interleaving in each small world; the last line is the verdict."""

import argparse
import sys
import time
from collections import Counter

from exploration.coverage import missed, strange, told
from exploration.explorer import Broken, explore
from exploration.step_checks import Covered
from exploration.worlds import WORLDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="explore", description=__doc__)
    parser.add_argument("--further", type=int, default=0, help="moves beyond those of make test")
    parser.add_argument("--quiet", action="store_true", help="no list of what was reached")
    arguments = parser.parse_args()
    covered: Covered = Counter()
    states = transitions = 0
    for world in WORLDS:
        begun = time.monotonic()
        try:
            explored = explore(world, world.depth + arguments.further)
        except Broken as broken:
            print(broken)
            print(f"explore: FAILED: {world.name}")
            return 1
        print(f"{explored}, {time.monotonic() - begun:.1f} s", flush=True)
        covered += explored.covered
        states, transitions = states + explored.states, transitions + explored.transitions
    if not arguments.quiet:
        print("\n".join(told(covered)))
    if missed(covered) or strange(covered):
        print(f"explore: FAILED: never reached {missed(covered)}, unforeseen {strange(covered)}")
        return 1
    print(
        f"explore: passed: {states} states, {transitions} transitions, every row and cell reached"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
