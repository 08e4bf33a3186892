"""`make fuzz`: 10,000 damaged inputs in at most ten CPU minutes; each fault is printed with how to repeat it.

python -m tests.fuzz --inputs 10000 --seconds 600
python -m tests.fuzz --only gguf:123          # one input again, with its traceback
"""

import argparse
import sys

from tests.fuzz.campaign import campaign
from tests.fuzz.targets import TARGETS, run_one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="of CPU; fewer inputs are tried when it is up")
    parser.add_argument("--first", type=int, default=0, help="number of the first input: another seed")
    parser.add_argument("--targets", nargs="*", default=[target.name for target in TARGETS])
    parser.add_argument("--only", metavar="TARGET:NUMBER")
    arguments = parser.parse_args()
    by_name = {target.name: target for target in TARGETS}
    if arguments.only:
        name, number = arguments.only.split(":")
        print(ascii(run_one(by_name[name], int(number)) or "read"))
        return 0
    chosen = [by_name[name] for name in arguments.targets]
    result = campaign(chosen, inputs=arguments.inputs, seconds=arguments.seconds, first=arguments.first)
    print(result.table())
    for fault in result.faults:
        print(f"FAULT {fault.what}  repeat: python -m tests.fuzz --only {fault.target}:{fault.number}")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
