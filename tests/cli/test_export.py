"""One model file of a run."""

from __future__ import annotations

from pathlib import Path

from run_cases import TINY

from captioner.checkpoint import load_model
from captioner.cli.main import main
from captioner.predictors import load


def test_export_of_the_folder_or_a_checkpoint(root, tmp_path, capsys, draw):
    (best,) = (root / "run" / "checkpoints").glob("best*.ckpt")
    for run, name in ((root / "run", "a"), (best, "b")):
        output = tmp_path / f"{name}.safetensors"
        assert main(["export", str(run), "--output", str(output), "--dtype", "float32"]) == 0
        said = f"{output}: {output.stat().st_size / 1e6:.1f} MB, from {best}\n"
        assert capsys.readouterr().out == said
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    exported, trained = load_model(tmp_path / "a.safetensors"), load_model(best)
    assert exported.provenance == trained.provenance
    assert exported.provenance["config"]["trainer"]["max_epochs"] == 2
    assert exported.provenance["metrics"]["val/cider"] >= 0
    assert {"captioner", "torch", "timm", "lightning"} < exported.provenance["versions"].keys()
    said = [load(path, "cpu").caption(draw(0))[0] for path in (tmp_path / "a.safetensors", best)]
    assert (said[0].text, said[0].log_prob) == (said[1].text, said[1].log_prob)


def test_export_with_another_fit_and_of_an_exported_model(root, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert main(["export", str(root / "run"), "--output", str(first)]) == 0
    assert load_model(first).transform.fit == "squash"
    assert main(["export", str(first), "--fit", "pad", "--output", str(second)]) == 0
    assert load_model(second).transform.fit == "pad"
    assert load_model(second).provenance == load_model(first).provenance


def test_what_cannot_be_exported(root, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "two" / "checkpoints").mkdir(parents=True)
    for name in ("best-1.ckpt", "best-2.ckpt"):
        (tmp_path / "two" / "checkpoints" / name).touch()
    output = str(tmp_path / "m.safetensors")
    cases = [
        ([str(root / "run"), "--output", "m.pt"], "must end in .safetensors"),
        ([str(tmp_path / "empty"), "--output", output], "neither a .ckpt file nor a run's folder"),
        ([str(tmp_path / "gone"), "--output", output], "neither a .ckpt file nor a run's folder"),
        ([str(tmp_path / "two"), "--output", output], "several best checkpoints"),
        ([str(TINY), "--output", output], "tiny.yaml: damaged, or not a .safetensors file"),
    ]
    for given, message in cases:
        assert main(["export", *given]) == 2
        err = capsys.readouterr().err
        assert err.startswith("captioner: error: ")
        assert message in err
        assert len(err.splitlines()) == 1
    assert not Path(output).exists()
