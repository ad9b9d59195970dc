"""The parts of the Tigera operator: what it accepts, what it renders, how it reports."""
