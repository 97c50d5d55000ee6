"""`python -m normbench`: the command of the interpreter at hand, whatever is on the path."""

import sys

from normbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
