"""Scripts that convert, fetch and publish weights: `python -m conversion.convert --help`."""
