"""The daemon behind the local lab: TLS, tokens, sockets, clusters and their life."""
