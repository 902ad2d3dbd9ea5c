"""`captioner compare`: which variants there are, what is trained again, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from captioner.cli import compare
from captioner.cli.main import main

TINY = """# first
seed_everything: 0
trainer: {accelerator: cpu, max_epochs: 1, enable_progress_bar: false, enable_model_summary: false}
data:
  reader:
    class_path: captioner.data.synthetic.SyntheticShapes
    init_args: {root: PICTURES, num_train: 4, num_dev: 2}
  transform: {size: 64, fit: squash}
  vocabulary: {class_path: captioner.tokenizer.WordLevel, init_args: {min_count: 1}}
  batch_size: 2
  num_workers: 0
model:
  encoder: {class_path: captioner.models.GridEncoder, init_args: {name: timm/test_efficientnet, weights: none}}
  decoder: {class_path: captioner.models.ShowAttendTell, init_args: {embed_dim: 8, hidden_dim: 8}}
"""
NO_ATTENTION = """# blind
model:
  decoder: {class_path: captioner.models.ShowAndTell, init_args: {embed_dim: 8, hidden_dim: 8}}
"""


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "tiny" / "group").mkdir(parents=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("PICTURES", str(tmp_path / "pictures")))
    (tmp_path / "tiny" / "group" / "blind.yaml").write_text(NO_ATTENTION)
    (tmp_path / "tiny" / "alone.yaml").write_text("trainer: {max_epochs: 2}\n")
    return path


def result(seed: int, cider: float, meteor: float | None = 20.0, config: str = "") -> compare.Result:
    return compare.Result(seed, config, cider / 2, meteor, cider, 4.0, 1_500_000, 2.0, 3.0, 50.0)


def test_variants_are_the_config_and_the_files_beside_it(config):
    variants = compare.find_variants(config)
    assert [(v.label, v.group, v.name, len(v.configs)) for v in variants] == [
        ("first", "", "tiny/tiny", 1),
        ("alone", "", "tiny/alone", 2),
        ("blind", "group", "tiny/blind", 2),
    ]


def test_the_table_ranks_what_has_three_seeds(config):
    first, alone, blind = compare.find_variants(config)
    rows = [
        (first, [result(seed, 30.0 + seed) for seed in range(3)]),
        (alone, [result(0, 99.0, meteor=None)]),
        (blind, [result(seed, 40.0) for seed in range(3)]),
    ]
    lines = compare.table(rows).splitlines()
    assert lines[2].startswith("| first | 3 | 15.50 ± 0.50 | 20.00 ± 0.00 | 31.00 ± 1.00 | 2 | 4.00 | 1.50 M |")
    assert lines[3].startswith("| alone | 1 | 49.50 | – | 99.00 |  | 4.00 |")
    assert lines[4].startswith("| **group** |")
    assert lines[5].startswith("| blind | 3 | 20.00 ± 0.00 | 20.00 ± 0.00 | 40.00 ± 0.00 | 1 | 4.00 |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_is_done_is_not_done_again(config, tmp_path, monkeypatch, capsys):
    trained = []

    def train(variant, seed, folder, changes):
        trained.append((variant.name, seed, *changes))
        folder.mkdir(parents=True)
        if variant.name == "tiny/blind" and len(trained) == 3:
            raise RuntimeError("cut off")

    monkeypatch.setattr(compare, "_train", train)
    monkeypatch.setattr(compare, "_evaluate", lambda folder, seed, digest, trust: result(seed, 30.0, config=digest))
    arguments = ["compare", str(config), "--runs", str(tmp_path / "runs"), "--set", "trainer.max_epochs=1"]
    assert main(arguments) == 2  # cut off at the third
    done = trained.copy()
    trained.clear()
    monkeypatch.setattr(compare, "_train", lambda variant, seed, *rest: trained.append((variant.name, seed)))
    assert main([*arguments, "--output", str(tmp_path / "out" / "table.md")]) == 0
    assert done == [(name, 0, "trainer.max_epochs=1") for name in ("tiny/tiny", "tiny/alone", "tiny/blind")]
    assert trained == [("tiny/blind", 0)]
    assert capsys.readouterr().out == (tmp_path / "out" / "table.md").read_text("utf-8")
    assert main([*arguments, "--only", "alone", "blind", "--seeds", "1", "--table-only"]) == 0
    assert len(trained) == 1
    assert "first" not in capsys.readouterr().out
    assert main([*arguments[:-1], "trainer.max_epochs=2"]) == 2  # no row of another budget among the others
    assert "is of another config, or of another --set" in capsys.readouterr().err


def test_two_variants_of_one_name_are_refused(config):
    (config.with_suffix("") / "other").mkdir()
    (config.with_suffix("") / "other" / "alone.yaml").write_text("trainer: {max_epochs: 3}")
    with pytest.raises(ValueError, match="two variants are called alone"):
        compare.find_variants(config)


def test_what_cannot_be(config, tmp_path, capsys):
    cases = {
        "no variant nothing; there are: alone, blind, tiny": ["--only", "nothing"],
        "--figure FILE, --photo PHOTO and --caption TEXT": ["--figure", "f.png", "--photo", "p.jpg"],
        "no variant was trained here": ["--table-only", "--figure", "f.png", "--photo", "p.jpg", "--caption", "a dog"],
    }
    for message, arguments in cases.items():
        assert main(["compare", str(config), "--runs", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_it_trains_evaluates_and_draws(config, tmp_path, draw, capsys, monkeypatch):
    """Whole trainings in processes of their own, as small as they come."""
    for module in ("java", "scores"):
        monkeypatch.setattr(f"captioner.metrics.{module}.find_java", lambda: None)
    draw(0).save(tmp_path / "photo.png")
    arguments = ["compare", str(config), "--only", "tiny", "blind", "--runs", str(tmp_path / "runs")]
    figure = ["--figure", str(tmp_path / "f.png"), "--photo", str(tmp_path / "photo.png"), "--caption", "a red circle"]
    assert main([*arguments, *figure, "--set", "data.captions_per_image=1"]) == 0
    folder = tmp_path / "runs" / "tiny" / "blind" / "seed0"
    found = json.loads((folder / "result.json").read_text())
    assert found["parameters"] > 1000
    assert 0 < found["cpu_minutes"]
    assert 0 < found["captions_per_second"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["captions_per_image"] == 1
    assert "| blind | 1 |" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 1000
