"""The report and the leak watch."""
