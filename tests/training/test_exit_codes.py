"""Exit codes of commands, and their messages."""

import pytest

from lstm_jax.training.errors import ConfigError, NotFiniteError, RunError
from lstm_jax.training.exit_codes import exit_code

STRICT = False


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("seed must be 0."), 2, "error: seed must be 0.\n"),
        (RunError("the disk is full."), 1, "error: the disk is full.\n"),
        (NotFiniteError("step 3 gave nan."), 1, "error: step 3 gave nan.\n"),
        (OSError(13, "Permission denied", "a.txt"), 1, "error: a.txt: Permission denied.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_expected_error_is_one_line(error, code, message, capsys):
    def command():
        raise error

    assert exit_code(command) == code
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", message)


def test_the_exit_code_of_a_command_is_returned(capsys):
    assert exit_code(lambda: 7) == 7
    assert capsys.readouterr().err == ""


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)
