"""What outside clients were answered: a table of counts, and the path of one connection."""

from collections import Counter
from collections.abc import Sequence

from labkit.markup import Fragment, table
from labkit.sourceip import Answer, Refused
from labkit.ui.path import Hop, Leg, Path

__all__ = ["path_of", "tally"]


def tally(answers: Sequence[Answer | Refused]) -> Fragment:
    """Return how often each client was answered, and whose address the pod saw."""
    counts = Counter((a.client, a.client_address, *_seen(a)) for a in answers)
    rows = [[client, address or "?", seen, whose, n] for (client, address, whose, seen), n in counts.items()]
    return table(["client", "its address", "the pod saw", "which is", "times"], rows)


def _seen(answer: Answer | Refused) -> tuple[str, str]:
    if isinstance(answer, Refused):
        return answer.error, "nothing"
    whose = {"client": "the client", "other": "somebody else"}.get(answer.seen_is, f"node {answer.seen_is}")
    return whose, answer.seen


def path_of(answer: Answer | Refused, title: str = "", *, port: int = 80) -> Path:
    """Return the way that a connection took, as far as its two ends show it.

    Args:
        answer: of `lab.source_ip.ask`.
        title: above the picture.
        port: the service's.
    """
    client = Hop(answer.client, answer.client_address, "outside client")
    balancer = Hop("load balancer", answer.frontend, "keeps the source")
    asked = Leg(answer.client_address or answer.client, f"{answer.frontend}:{port}")
    if isinstance(answer, Refused):
        return Path(title or "No answer", (client, balancer), (asked,), f"{answer.client}: {answer.error}.")
    pod = Hop("pod", answer.pod, f"sees {answer.seen}")
    if answer.preserved:
        node = Hop("a node", "", "source kept")
        last = Leg(answer.seen, "the pod")
        verdict = "The pod sees the client."
    else:
        node = Hop("a node", answer.seen, "puts in its own address")
        last = Leg(answer.seen, "the pod", changed=True)
        verdict = f"The pod sees {answer.seen}: {_seen(answer)[0]}. Who asked is lost on the way."
    return Path(title or f"{answer.client} asks", (client, balancer, node, pod), (asked, asked, last), verdict)
