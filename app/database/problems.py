"""What is wrong with a database, in words for people."""


class DatabaseProblem(ConnectionError):
    """The database cannot be used as it is; the text says why and what to do, without any secret."""


class CannotConnect(ConnectionError):
    """No host answered, or a file cannot be opened; the text names it."""


class ReadOnly(DatabaseProblem):
    """No host takes writes."""


class CommitsWait(DatabaseProblem):
    """Earlier commits wait for a synchronous standby, so this one was not begun."""

    def __init__(self) -> None:
        super().__init__(
            "Commits wait for a synchronous standby that does not confirm them. Until it does, nothing is committed."
        )


class NotReplicated(DatabaseProblem):
    """A commit returned before the synchronous standby had it."""

    def __init__(self) -> None:
        super().__init__("The wait for the synchronous standby was cancelled: a fail-over may undo the commit.")
