"""The only entrypoint: `python run.py --help`."""

import sys

from epsball.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
