"""Many runs, one table: `python scripts/collect.py outputs/...`."""

import sys

from epsball.collect.table import main

if __name__ == "__main__":
    sys.exit(main())
