"""What lies under outputs: `python scripts/runs.py list`, `python scripts/runs.py clean`."""

import sys

from epsball.collect.storage import main

if __name__ == "__main__":
    sys.exit(main())
