"""`python -m airlib` is the command line: the same as `airlib`."""

import sys

from airlib.cli.commands import main

sys.exit(main())
