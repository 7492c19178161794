"""`python -m alma_pipeline`."""

import sys

from alma_pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
