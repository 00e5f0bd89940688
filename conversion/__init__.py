"""Original ELMo weights into Hub folders, and back; see `python -m conversion.convert --help`."""
