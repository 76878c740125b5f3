"""The one error of the interpreter."""


class Fault(Exception):
    """Something that a kernel must not do, or that this interpreter does not know; the text says what and where."""
