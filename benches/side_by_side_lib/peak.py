"""Runs a program and prints the most memory that it ever had resident, in KiB.

usage: peak.py PROGRAM [ARGUMENT]...

In a process of its own, because the system counts the memory of whoever starts a program as the program's, up to the moment at
which it begins: about ten MiB here. The program's output goes to standard error, and its status is ours."""

import resource
import subprocess
import sys

if __name__ == "__main__":
    status = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    sys.exit(status)
