"""The way to qmail-smtpd: connections, and one conversation per client session.

aiosmtplib makes, greets, secures and closes the connections; between that they
are spoken to here, because the library can neither pipeline nor stream.
"""
