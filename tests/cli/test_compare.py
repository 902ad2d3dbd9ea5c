"""`captioner compare`: which variants there are, what is trained again, and the table."""

from __future__ import annotations

from captioner.cli.main import main


def test_what_cannot_be(config, tmp_path, capsys):
    cases = {
        "no variant nothing; there are: alone, blind, tiny": ["--only", "nothing"],
        "--figure FILE, --photo PHOTO and --caption TEXT": ["--figure", "f.png", "--photo", "p.jpg"],
        "no variant was trained here": ["--table-only", "--figure", "f.png", "--photo", "p.jpg", "--caption", "a dog"],
    }
    for message, arguments in cases.items():
        assert main(["compare", str(config), "--runs", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err
