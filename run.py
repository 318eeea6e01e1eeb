"""The only entrypoint: `python run.py --help`."""

import signal
import sys

if __name__ == "__main__":  # worker processes import this file, and need nothing of it
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() listens: an end without a traceback
    from epsball.cli.main import main

    sys.exit(main())
