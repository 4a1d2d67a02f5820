"""What a shell completes."""

import pytest
from command import run


@pytest.mark.parametrize(
    ("words", "found"), [("jaxcnn pl", ["plot"]), ("jaxcnn export --o", ["--out"]), ("jaxcnn x", [])]
)
def test_commands_and_options_are_completed(capsys, monkeypatch, words, found):
    monkeypatch.setenv("_JAXCNN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert run() == 0
    assert capsys.readouterr().out.split() == found


def test_it_is_installed_for_a_shell(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # a process of CI has none above it
    assert run("--install-completion", "bash") == 0
    assert (tmp_path / ".bash_completions" / "jaxcnn.sh").is_file()
    assert "completion installed" in capsys.readouterr().out
