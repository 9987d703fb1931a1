"""The operating system's side of ``backstop serve``.

Sockets before rights, rights before the loop (``serve``), workers, supervisors.
Knows nothing of mail: that is the service's.
"""
