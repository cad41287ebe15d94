"""What becomes of files that are read within a budget, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SECONDS = 10  # of computing
MEMORY = 2**30  # bytes beyond what the process and the file have

OVER_BUDGET = "was stopped"

SCRIPT = """
import json, os, re, resource, sys
from pathlib import Path
from airlib.errors import AirlibError
{setup}

def outcome(path):
    try:
        read(Path(path))
    except AirlibError as error:
        return str(error)
    except BaseException as error:
        return type(error).__name__
    return "read"

for path in sys.argv[1:]:
    print(end="", flush=True)
    if not os.fork():
        own = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        most = own + {memory} + os.stat(path).st_size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
        print(json.dumps([path, outcome(path)]), flush=True)
        os._exit(0)
    os.wait()
"""


def outcomes(setup: str, paths: Sequence[Path]) -> dict[str, str]:
    """File name -> "read", the sentence of the AirlibError, the name of another exception, or
    OVER_BUDGET.

    setup: Python that defines `read(path)`.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is only known on Linux")
    code = SCRIPT.format(setup=setup, memory=MEMORY, seconds=SECONDS)
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = dict(map(json.loads, done.stdout.splitlines()))
    results = {path.name: found.get(str(path), OVER_BUDGET) for path in paths}
    return {k: OVER_BUDGET if "MemoryError" in v else v for k, v in results.items()}
