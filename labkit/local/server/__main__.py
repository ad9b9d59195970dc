"""`python -m labkit.local.server HOME PORT`: the daemon, as `labkit up` starts it."""

import sys

from labkit.local.server.daemon import main

main(*sys.argv[1:3])
