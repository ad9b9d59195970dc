"""Which address a pod sees of a client outside, the way of one connection, and policies on such clients."""

from labkit.sourceip.echo import Answer, Refused, SourceIp
from labkit.sourceip.policies import Policies
from labkit.sourceip.trace_model import Hop, Trace
from labkit.sourceip.trace_run import trace

__all__ = ["Answer", "Hop", "Policies", "Refused", "SourceIp", "Trace", "trace"]
