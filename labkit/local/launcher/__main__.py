"""Started as a script, without the machine's site packages: that is faster, and nothing of them is needed."""

import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from labkit.local.launcher.serve import main

signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the daemon
main(socket.socket(fileno=int(sys.argv[1])))
