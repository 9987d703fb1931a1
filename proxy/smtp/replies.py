"""Every reply that the front door says of its own, in one place.

Codes are qmail-smtpd's, except where the comment says why not; texts tell
nothing of our insides.  docs/replies.md lists cause and remedy of each.
"""

from proxy.smtp.reply import Reply

OK = Reply(250, b"2.0.0 ok")
SENDER_OK = Reply(250, b"2.1.0 ok")
FLUSHED = Reply(250, b"2.0.0 flushed")
GO_AHEAD = Reply(354, b"go ahead")
HELP = Reply(214, b"2.0.0 see RFC 5321")
VRFY = Reply(252, b"2.5.2 send some mail, i'll try my best")
UNIMPLEMENTED = Reply(502, b"5.5.1 unimplemented")
SYNTAX = Reply(555, b"5.5.4 syntax error")
MAIL_FIRST = Reply(503, b"5.5.1 MAIL first")
RCPT_FIRST = Reply(503, b"5.5.1 RCPT first")

# RFC 3207 §4.
TLS_READY = Reply(220, b"2.0.0 ready to start TLS")
TLS_ALREADY = Reply(503, b"5.5.1 TLS is active already")
TLS_PARAMETER = Reply(501, b"5.5.4 STARTTLS takes no parameter")

# Not qmail's: it would read such a command otherwise than we do.
CONTROL_CHARACTER = Reply(501, b"5.5.2 control character in command")
LINE_TOO_LONG = Reply(500, b"5.5.2 command line too long")
TOO_BIG = Reply(552, b"5.3.4 message exceeds the size limit")

# qmail-smtpd's straynewline(), with an enhanced code.
BARE_LF = Reply(451, b"4.6.0 bare LF, see https://cr.yp.to/docs/smtplf.html")

# RFC 4954; where the usual patches of qmail-smtpd have a reply, their codes.
AUTH_SYNTAX = Reply(501, b"5.5.4 AUTH wants a mechanism")
AUTH_MECHANISM = Reply(504, b"5.5.4 mechanism not offered")
AUTH_TWICE = Reply(503, b"5.5.1 already authenticated")
AUTH_IN_TRANSACTION = Reply(503, b"5.5.1 no AUTH during a mail transaction")
AUTH_NEEDS_TLS = Reply(538, b"5.7.11 encryption required")
AUTH_LOST = Reply(421, b"4.4.2 authenticate anew, closing connection")
TOO_MANY_AUTH = Reply(421, b"4.7.0 too many authentication failures")

TOO_MANY_UNKNOWN = Reply(421, b"4.7.0 too many unknown recipients")
TOO_MANY_GUESSES = Reply(421, b"4.7.0 too many unknown recipients, come back later")
TOO_MANY_ERRORS = Reply(421, b"4.7.0 too many errors")
TOO_MANY_COMMANDS = Reply(421, b"4.7.0 too many commands, connect again")
TOO_MANY_RECIPIENTS = Reply(452, b"4.5.3 too many recipients")  # RFC 5321 4.5.3.1.10
UNKNOWN_LATER = Reply(450, b"4.7.0 too many unknown recipients in this message")
TOO_MANY_WAITING = Reply(452, b"4.5.3 too many recipients at once")
TOO_SLOW = Reply(421, b"4.4.2 message too slow, closing connection")
TOO_OLD = Reply(421, b"4.4.2 session too long, connect again")
IDLE = Reply(421, b"4.4.2 timeout, closing connection")
TOO_MANY_CONNECTIONS = Reply(421, b"4.3.2 too many connections, try again later")
DENIED = Reply(554, b"5.7.1 no mail is taken from your address")
SHUTTING_DOWN = Reply(421, b"4.3.2 service not available, try again later")

NO_SUCH_RECIPIENT = Reply(550, b"5.1.1 no such recipient here")
# For whoever only may bounce into a program: not about the recipient's name.
NO_BOUNCES = Reply(550, b"5.7.1 no bounces are taken for this recipient")
MAILBOX_DISABLED = Reply(550, b"5.2.1 mailbox disabled")
BAD_SENDER = Reply(553, b"5.7.1 your envelope sender is not accepted here")
NOT_RELAYED = Reply(553, b"5.7.1 relaying to that domain is not allowed")
POLICY_REFUSED = Reply(554, b"5.7.1 access denied")
POLICY_DEFERRED = Reply(450, b"4.7.1 try again later")
OVER_QUOTA = Reply(421, b"4.7.0 too much mail, try again later")
HANG_UP = Reply(421, b"4.7.0 closing connection, try again later")
RECIPIENT_DEFERRED = Reply(451, b"4.3.0 cannot check this recipient now")
# vpopmail bounces what does not fit, whatever the sender does later.
MAILBOX_FULL = Reply(552, b"5.2.2 mailbox full")
MAILBOX_FULL_NOW = Reply(452, b"4.2.2 mailbox full now")
MAILBOX_DEFERRED = Reply(451, b"4.2.0 mailbox not available now")

# RFC 5321 §4.5.3.1.10, for another reason: the rest in a transaction of its own.
OTHER_TRANSACTION = Reply(451, b"4.5.3 too many recipients, send to this one later")

BACKEND_UNREACHABLE = Reply(451, b"4.4.1 cannot pass mail on now")
BACKEND_LOST = Reply(451, b"4.4.2 cannot pass mail on now")
BACKEND_CONFUSED = Reply(451, b"4.3.0 cannot pass mail on now")
INTERNAL = Reply(451, b"4.3.0 temporary failure")
