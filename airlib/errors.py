"""The one exception users see: it says what was wrong and what to do."""


class AirlibError(Exception):
    """Bad input or a broken environment, in one sentence a user can act on."""
