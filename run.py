"""The only entrypoint: `python run.py --help`."""

import sys

if __name__ == "__main__":  # worker processes import this file, and need nothing of it
    from epsball.cli.main import main

    sys.exit(main())
