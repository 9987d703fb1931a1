"""Ends of a message that are none: the sequences of the public smuggling tools,
and some more; by their names in the tests' matrix."""

NAMED = {
    # smtpsmug, and SMTP-Smuggling-Tools.
    "S-lf.lf": b"\n.\n",
    "S-lf.cr": b"\n.\r",
    "S-cr.lf": b"\r.\n",
    "S-cr.cr": b"\r.\r",
    "S-lf.crlf": b"\n.\r\n",
    "S-cr.crlf": b"\r.\r\n",
    "S-crlf.lf": b"\r\n.\n",
    "S-crlf.cr": b"\r\n.\r",
    "S-crlf-nul.crlf": b"\r\n\0.\r\n",
    "S-crlf.nul-crlf": b"\r\n.\0\r\n",
    "S-crlf.crcrlf": b"\r\n.\r\r\n",
    "S-crcrlf.crcrlf": b"\r\r\n.\r\r\n",
    # Ours.
    "S-crlf.space-crlf": b"\r\n. \r\n",
    "S-crlf.tab-crlf": b"\r\n.\t\r\n",
    "S-stuffed": b"\r\n..\r\n",
    "S-lf..crlf": b"\n..\r\n",
    "S-crlf.crlf-nul": b"\r\n.\r\0\n",
    "S-nul-crlf.lf": b"\0\r\n.\n",
    "S-nel.nel": b"\x85.\x85",
    "S-vt.vt": b"\x0b.\x0b",
    "S-ff.ff": b"\x0c.\x0c",
}
SEQUENCES = list(NAMED.values())


def has_bare_lf(sequence: bytes) -> bool:
    """Whether there is a LF without a CR before it."""
    return b"\n" in sequence.replace(b"\r\n", b"")
