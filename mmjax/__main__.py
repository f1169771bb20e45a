"""`python -m mmjax` is `mmjax`."""

import sys

from mmjax.cli.main import main

# Workers that load data are started by importing this module anew: only the first process runs the command.
if __name__ == "__main__":
    sys.exit(main())
