"""A node's launcher: a small process that forks containers, so that the daemon need not.

It uses the standard library alone, has one thread, and stays small: a fork of it costs a millisecond
where a fresh interpreter costs twenty. A container's parent is a shim, a fork of the launcher that writes
the container's log and its exit code to files. Shims and containers outlive the launcher and the daemon;
a later daemon finds them by those files.

Requests and answers are JSON in the packets of a Unix socket; `node.runtime` is the other side.
"""
