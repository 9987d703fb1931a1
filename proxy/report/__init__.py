"""What the logs tell: ours, qmail-send's, and both of them together.

No network, no event loop: ``backstop report`` reads files by it, and the leak
watch of the service has its parser of qmail-send's log from here.
"""
