"""ezmlm and ezmlm-idx: what the programs of a mailing list do with a message.

Knows: what each program makes of the null reverse-path and of the words of an
address, and that a list whose directory is gone defers.  Knows not: who is
subscribed, what the message says, cookies; where those decide, the answer is
unknown.  Called by way of :mod:`proxy.qmail.known`.  Source: the programs of
ezmlm-idx 7 (ezmlm-NAME.c, idx.h, getconfopt.c); older ones agree in this.

Who knows no recipient but the sender of a message answers to it: an unknown word at
``LIST-anything`` brings help to whoever the sender claims to be.  That is no
refusal, so it is accepted, unless ``ezmlm_unknown_words`` says otherwise.
"""

from __future__ import annotations

import re

from proxy.qmail.effect import Effect, Program, Run
from proxy.qmail.errors import KernelError

_BOUNCE = "ezmlm: bounces are not for this address"
_ANONYMOUS = "ezmlm: the sender has no domain"
_NULL = (b"", b"#@[]")
_COOKIE = 20  # cookie.h, COOKIE

# idx.h, ACTION_*, lower case.  Those that are compared whole, and those that
# only have to begin the word.
_WHOLE = frozenset(
    b"subscribe unsubscribe list listn help digest digest-subscribe".split()
)
_BEGINNINGS = (
    b"edit get index thread request log query info faq allow deny digest "
    b"dig- dig. sc. rc. tc. uc. vc. wc. ed. return"
).split()
_GET = (b"get", b"index", b"thread", b"dig")


def _list(arguments: list[bytes], run: Run) -> Effect | None:
    """A deferral, where the list's directory cannot be entered; every program
    changes to it first (getconfopt.c)."""
    directory = next((a for a in arguments if a[:1] in (b"/", b".")), None)
    if directory is None:
        return None
    try:
        run.walker.enter(directory, run.home)
    except KernelError as error:
        run.trail.add(directory, "the directory of the list: {}", str(error))
        return Effect(111, reason="ezmlm: the directory of the list is not there")
    return None


def _refused(run: Run, *, anonymous: bool) -> Effect | None:
    """``ERR_BOUNCE`` and ``ERR_ANONYMOUS``."""
    sender = run.environment[b"SENDER"]
    if sender in _NULL:
        return Effect(100, reason=_BOUNCE)
    if anonymous and b"@" not in sender:
        return Effect(100, reason=_ANONYMOUS)
    return None


def _posting(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-reject, ezmlm-send, ezmlm-store, ezmlm-gate: not from the null
    reverse-path; else subscribers, moderators and headers decide.

    ezmlm-reject lets ``#@[]`` pass, to one of the others that does not.
    """
    return _list(arguments, run) or _refused(run, anonymous=False)


def _moderating(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-moderate, ezmlm-confirm: cookies decide, but no bounce has one."""
    return _list(arguments, run) or _refused(run, anonymous=True)


def _manage(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-manage: every word but those of its own is answered with help."""
    fault = _list(arguments, run) or _refused(run, anonymous=True)
    if fault is not None:
        return fault
    word = run.environment.get(b"DEFAULT")
    if word is None:
        return Effect(100, reason="ezmlm-manage: not at the end of an address")
    if run.host.settings.ezmlm_unknown_words or is_word(word):
        return None
    run.trail.add(
        b"qmail.ezmlm_unknown_words", "reject: {} is no word of ezmlm's", word
    )
    return Effect(100, reason="ezmlm: no such command")


def is_word(text: bytes) -> bool:
    """Whether ``text``, what stands for ``anything`` in ``LIST-anything``, means
    something to a program of ezmlm's manager."""
    text = text.lower()
    for prefix in (b"digest-", b"allow-", b"deny-"):
        text = text.removeprefix(prefix)
    if text.partition(b"-")[0] in _WHOLE or not text:
        return True
    return any(text.startswith(word) for word in _BEGINNINGS)


def _get(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-get: no bounces; of words, its own, the others pass."""
    fault = _list(arguments, run) or _refused(run, anonymous=True)
    word = run.environment.get(b"DEFAULT")
    if fault is not None or word is None or word.lower().startswith(_GET):
        return fault
    return Effect(0, passes=True)


def _split(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-split: only subscribing concerns it."""
    fault = _list(arguments, run) or _refused(run, anonymous=True)
    word = run.environment.get(b"DEFAULT")
    if fault is not None or word is None:
        return fault
    if word.lower().partition(b"-")[0] in (b"subscribe", b"unsubscribe"):
        return None
    return Effect(0, passes=True)


def _request(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-request: only ``LIST-request`` concerns it.

    It throws bounces away (99); whoever sends one is better told.
    """
    fault = _list(arguments, run)
    if fault is not None:
        return fault
    word = run.environment.get(b"DEFAULT", b"")
    majordomo = any(a.startswith(b"-") and b"f" in a for a in arguments)
    if not majordomo and not word.lower().startswith(b"request"):
        return Effect(0, passes=True)
    return _refused(run, anonymous=True)


_RETURN = re.compile(rb"[0-9]*-")
_MARKED = re.compile(rb"(?:receipt-)?(?:[gm]-)?")


def _return(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-return: bounces are what it is for, and it takes all that have the
    form of an address of its own; what it does not believe it throws away."""
    fault = _list(arguments, run)
    if fault is not None:
        return fault
    action = run.environment.get(b"DEFAULT")
    if action is None:
        return Effect(100, reason="ezmlm-return: not at the end of an address")
    mark = _MARKED.match(action)
    marked = mark.end() if mark else 0
    if marked == len(action):
        # ezmlm-manage's own answers come from LIST-return-, and their bounces go
        # there, to be thrown away; what others have lost there is uncertain.
        return Effect(99) if run.environment[b"SENDER"] in _NULL else None
    if action.startswith((b"probe-", b"warn-")):
        return Effect(99)
    if marked:
        cookie, dash, action = action[marked:].partition(b"-")
        if len(cookie) != _COOKIE or not dash:
            return Effect(100, reason="ezmlm-return: bad return address")
    if not _RETURN.match(action):
        return Effect(100, reason="ezmlm-return: bad return address")
    return Effect(99)


def _keeping(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-clean, ezmlm-warn, ezmlm-archive: they tend the list, and the
    message is nothing to them."""
    return _list(arguments, run) or Effect(0, passes=True)


def _weed(arguments: list[bytes], run: Run) -> Effect | None:
    """ezmlm-weed throws away (99) what is bulk or automatic; all else passes."""
    return Effect(0, passes=True)


def _unknown(arguments: list[bytes], run: Run) -> Effect | None:
    """Subscribers or digests decide."""
    return _list(arguments, run)


PROGRAMS: dict[bytes, Program] = {
    b"ezmlm-archive": _keeping,
    b"ezmlm-checksub": _unknown,
    b"ezmlm-clean": _keeping,
    b"ezmlm-confirm": _moderating,
    b"ezmlm-gate": _posting,
    b"ezmlm-get": _get,
    b"ezmlm-issubn": _unknown,
    b"ezmlm-manage": _manage,
    b"ezmlm-moderate": _moderating,
    b"ezmlm-receipt": _unknown,
    b"ezmlm-reject": _posting,
    b"ezmlm-request": _request,
    b"ezmlm-return": _return,
    b"ezmlm-send": _posting,
    b"ezmlm-split": _split,
    b"ezmlm-store": _posting,
    b"ezmlm-tstdig": _unknown,
    b"ezmlm-warn": _keeping,
    b"ezmlm-weed": _weed,
}
