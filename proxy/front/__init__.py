"""The client's side: sockets, limits, and the one aiosmtpd subclass."""
