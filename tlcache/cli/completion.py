"""What a shell offers for options and arguments that take a few known words.

The words stand here once more as plain text, since to import what defines them would make a user
wait; a test holds them to it.
"""

from __future__ import annotations

from collections.abc import Callable

Complete = Callable[[str], list[str]]


def one_of(*words: str) -> Complete:
    """Of the words, those that begin like what was typed."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def some_of(*words: str) -> Complete:
    """The same for words with commas between them: what was typed, and a word not yet in it."""

    def complete(incomplete: str) -> list[str]:
        typed, comma, last = incomplete.rpartition(",")
        left = [word for word in words if word not in typed.split(",")]
        return [typed + comma + word for word in left if word.startswith(last)]

    return complete
