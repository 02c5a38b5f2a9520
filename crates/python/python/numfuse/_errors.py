"""What goes wrong, as Python's own exceptions say it: every class here is also one of theirs."""


class Error(Exception):
    """Everything that numfuse raises. The message draws the expression with the place of the mistake.

    >>> import numfuse
    >>> try:
    ...     numfuse.evaluate("sqtr(2)")
    ... except numfuse.Error as error:
    ...     print(error.code, isinstance(error, NameError))
    E0202 True
    """

    #: Which mistake it is: a code that never changes its meaning, such as ``"E0401"``.
    code: str = "E0901"

    def __str__(self) -> str:
        # `KeyError` would quote the message.
        return str(self.args[0]) if self.args else ""


class ParseError(Error, SyntaxError, ValueError):
    """A text that is no expression."""


class UnknownNameError(Error, NameError, KeyError):
    """A name that is bound nowhere."""


class UnknownFunctionError(Error, NameError, TypeError):
    """A function or a method that does not exist."""


class ArgumentError(Error, TypeError):
    """An operand or an argument that an operation, or a call, does not take."""


class ShapeError(Error, ValueError):
    """Shapes, axes or indices that do not go together."""


class RangeError(Error, OverflowError, ValueError):
    """A number that does not fit the integers it meets, or a power that integers do not have."""


class OutputError(Error, ValueError, TypeError):
    """An ``out=`` that the result cannot be written to."""


class LimitError(Error, ValueError):
    """An expression or a result that is too large."""


class NoMemoryError(Error, MemoryError):
    """Memory that the system did not give."""


class DeviceError(Error, RuntimeError):
    """A device that is not there or fails, or an array that is not where work is to be done."""


class InternalError(Error, RuntimeError):
    """A bug in numfuse: please report it."""


# What they are called in messages.
for _class in (Error, *Error.__subclasses__()):
    _class.__module__ = "numfuse"
del _class
