"""What runs inside pods. Each module is a program, `python -m labkit.local.programs.<name>`, and starts fast."""
