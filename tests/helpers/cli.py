"""The command line in the tests' own process."""

import pytest

from facetrain import cli

QUICK = ("pretrain.num_draws=4", "meta.num_rounds=1", "meta.num_steps=4", "adapter.num_draws=2")
"""Keys of `clean` for a cleaner that is learned in a second."""


def command(*arguments: object) -> None:
    """Run `facetrain` with these arguments; it must succeed."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    assert ended.value.code == 0


class Call:
    """Calls `facetrain`, and gives (exit status, stdout, stderr)."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = self._capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    def done(self, *arguments: object) -> str:
        """Stdout of a call that must succeed."""
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def refused(self, *arguments: object, status: int = 2) -> str:
        """Stderr of a call that must fail with `status` and a message instead of a traceback."""
        code, _, err = self(*arguments)
        assert code == status, err
        assert "Traceback" not in err
        return err
