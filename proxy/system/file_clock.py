"""How far a file's change time can be trusted to tell two changes apart."""

from __future__ import annotations

# A tick of the kernel's clock is 10 ms at most; git calls what is younger "racy".
TICK_NS = 50_000_000
_SECOND_NS = 1_000_000_000
# ext2, ext3, and ext4 with inodes of 128 bytes keep whole seconds, FAT every other.
_WHOLE_NS = 2 * _SECOND_NS + TICK_NS


def settled(changed_ns: int, now_ns: int) -> bool:
    """Whether the next change of a file gets another time than ``changed_ns``, its
    change time (which nobody can set).

    A stamp without nanoseconds is taken for one of a file system that has none.  One
    far in the future is another clock's, and as good as an old one.
    """
    tick = TICK_NS if changed_ns % _SECOND_NS else _WHOLE_NS
    return abs(now_ns - changed_ns) > tick
