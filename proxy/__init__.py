"""qmail-backstop: an SMTP front door for an unmodified qmail."""

__version__ = "0.1.0"
