"""install-cni: puts the configuration of Calico's CNI plugin on the node, which is then ready for pods."""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER = Path("/host/etc/cni/net.d")
NAME = "10-calico.conflist"


def main() -> None:
    """Write the file that the operator has handed over in CNI_NETWORK_CONFIG."""
    wanted = json.loads(os.environ["CNI_NETWORK_CONFIG"])
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / os.environ.get("CNI_CONF_NAME", NAME)
    new = target.with_suffix(".new")
    new.write_text(json.dumps(wanted, indent=2) + "\n")
    new.rename(target)
    print(f"CNI configuration written to {target}")


if __name__ == "__main__":
    main()
