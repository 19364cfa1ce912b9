"""`python -m turnkeeper.testing.simulation`: many seeds, or one of them told in full.

The last line is the verdict, and the exit code is 0 only if every guarantee held.
"""

import argparse
import os
import sys
import threading
import time

from turnkeeper.testing.simulation.campaign import CHUNK, campaign
from turnkeeper.testing.simulation.verdicts import judge_seed, report, shortened


def main() -> int:
    """Do what the arguments say; 0 if every guarantee held."""
    parser = argparse.ArgumentParser(prog="python -m turnkeeper.testing.simulation")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many lives")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--processes", type=int, default=None, help="one for each core by default")
    parser.add_argument("--store", choices=("memory", "sqlite"), default=None)
    parser.add_argument("--stop", action="store_true", help="stop at the first finding")
    parser.add_argument("--replay", type=int, default=None, metavar="SEED", help="tell one life")
    parser.add_argument("--whole", action="store_true", help="do not shorten a replayed life")
    parser.add_argument(
        "--attached", action="store_true", help="end with standard input: who started this has gone"
    )
    arguments = parser.parse_args()
    if arguments.attached:
        threading.Thread(target=_end_with_input, daemon=True).start()
    if arguments.replay is not None:
        return _replay(arguments)
    return _many(arguments)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _replay(arguments: argparse.Namespace) -> int:
    verdict = judge_seed(arguments.replay, arguments.store)
    print(report(verdict if arguments.whole else shortened(verdict)))
    return 1 if verdict.violations else 0


def _many(arguments: argparse.Namespace) -> int:
    begun, told, done, findings = time.monotonic(), 0, 0, []
    for progress in campaign(
        arguments.first,
        arguments.seeds,
        processes=arguments.processes,
        store=arguments.store,
        chunk=5 if arguments.stop else CHUNK,
    ):
        done, findings = progress.done, progress.findings
        if findings and arguments.stop:
            break
        if done * 10 // arguments.seeds > told:
            told = done * 10 // arguments.seeds
            seconds = time.monotonic() - begun
            print(f"{done} lives in {seconds:.0f} s, {len(findings)} findings", flush=True)
    for finding in findings[:20]:
        print(f"seed {finding.seed}:")
        for violation in finding.violations[:5]:
            print(f"  {violation}")
    if findings:
        print(f"simulate: FAILED: seed {findings[0].seed}: {findings[0].violations[0]}")
        print(f"tell it: python -m turnkeeper.testing.simulation --replay {findings[0].seed}")
        return 1
    print(f"simulate: passed: {done} lives, every guarantee held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
