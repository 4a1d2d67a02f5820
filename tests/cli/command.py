"""The command line, called in this process."""

import pytest

from jaxcnn import cli


def run(*arguments):
    """The exit status of `jaxcnn ARGUMENTS`."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    return stopped.value.code
