"""The one exception users see: it says what was wrong and what to do. Its text is safe to print."""


def printable(text: str) -> str:
    """`text` in one line, with nothing in it that a terminal obeys.

    Line breaks, escape codes, characters that change the direction of writing and halves of
    characters appear as Python writes them: `\\x1b`. What is printable stays as it is.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class AirlibError(Exception):
    """Bad input or a broken environment, in one sentence a user can act on.

    Names in it may come from strangers' files: the sentence is made `printable`.
    """

    def __init__(self, sentence: str):
        super().__init__(printable(sentence))
