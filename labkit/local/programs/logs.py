"""Log lines in the formats of the programs that ours stand for, on standard error."""

from __future__ import annotations

import logging
import sys
import threading
import time


class Klog(logging.Formatter):
    """klog: `I1123 23:20:11.123456       1 server.go:650] Version: v1.20.2`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        when = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        level = {"WARNING": "W", "ERROR": "E", "CRITICAL": "F"}.get(record.levelname, "I")
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{level}{when}.{micros:06d} {1:7d} {record.module}.go:{record.lineno}] {text}"


class Felix(logging.Formatter):
    """Felix: `2026-11-23 23:20:11.123 [INFO][42] felix/int_dataplane.go 290: …`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return (f"{when}.{int(record.msecs):03d} [{record.levelname}][{threading.get_native_id()}]"
                f" felix/{record.module}.go {record.lineno}: {text}")


def set_up(formatter: logging.Formatter, level: int = logging.INFO) -> None:
    """Send all logging to standard error in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
