"""What others may see of us: events, log, metrics, status pages."""
