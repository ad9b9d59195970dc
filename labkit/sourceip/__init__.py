"""Which address a pod sees of a client outside, and policies on such clients."""

from labkit.sourceip.echo import Answer, Refused, SourceIp
from labkit.sourceip.policies import Policies

__all__ = ["Answer", "Policies", "Refused", "SourceIp"]
