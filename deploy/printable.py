"""Texts of strangers on an operator's terminal."""


def printable(text: str) -> str:
    """Return `text` with what is no visible character, such as an escape or a line's end, spelt out."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
