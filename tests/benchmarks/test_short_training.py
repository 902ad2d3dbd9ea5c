"""A short training ends in time with a model, resumes exactly, and its pieces make the same file again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import pieces
from benchmarks.deadline import Timing
from benchmarks.pack import pack
from benchmarks.short_parts import QUICK, Settings, make_encoder, make_task
from benchmarks.short_training import Plan, join, main, score, train
from captioner.checkpoint import load_model, save_model
from captioner.data.readers import SyntheticShapes
from captioner.predictors import load
from captioner.specs import weights_digest

NUM_TRAIN, NUM_DEV = 20, 4
STEPS = 3  # of an epoch
EPOCHS = 2


def pack_shapes(folder, num_train):
    shapes = SyntheticShapes(folder / "shapes", num_train=num_train, num_dev=NUM_DEV, size=32)
    pack([shapes], folder / f"{num_train}.zip", 32)
    return folder / f"{num_train}.zip"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return pack_shapes(tmp_path_factory.mktemp("photos"), NUM_TRAIN)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A training from beginning to end: its folder, its result, what it said."""
    folder, lines = tmp_path_factory.mktemp("whole"), []
    result = train(folder, photos, device="cpu", quick=True, max_epochs=EPOCHS, say=lines.append)
    return SimpleNamespace(folder=folder, result=result, lines=lines)


def test_a_line_for_each_epoch(whole):
    first, *epochs, last = whole.lines
    assert f"{NUM_TRAIN} train and {NUM_DEV} dev photos of 32 x 32 pixels" in first
    assert [line.partition(":")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert all("train loss" in line for line in epochs)
    assert "val nll" in epochs[1] and "val cider" in epochs[1]
    assert f"{EPOCHS * STEPS} steps" in last


def test_the_result_says_what_was_done(whole):
    result = json.loads((whole.folder / "result.json").read_text())
    assert result == whole.result
    assert result["finished"]
    assert (result["epochs"], result["steps"]) == (EPOCHS, EPOCHS * STEPS)
    assert result["photos_per_second"] > 0
    assert result["captions_per_second"] == pytest.approx(3 * result["photos_per_second"], rel=0.02)
    assert result["val"]["nll"] > 0
    assert all(result["val"][search]["CIDEr"] >= 0 for search in ("greedy", "beam 3"))
    assert result["peak_gpu_mb"] is None
    assert result["machine"]["torch"] == torch.__version__


def test_the_model_captions_photos_with_its_own_transform(whole, photos):
    captioner = load(whole.folder / "model.safetensors", device="cpu")
    assert captioner.transform.size == 32
    told = json.loads((whole.folder / "captions.json").read_text())
    paths = sorted((whole.folder / "photos" / "images").iterdir())[NUM_TRAIN:]
    assert [path.name for path in paths] == list(told["references"]) == list(told["captions"]["greedy"])
    assert len(captioner.caption(paths, maps=False)) == NUM_DEV


def test_the_model_holds_the_averaged_weights(whole):
    checkpoint = torch.load(whole.folder / "checkpoints" / "last.ckpt", weights_only=True)
    saved = load_model(whole.folder / "model.safetensors").model.state_dict()
    name = "decoder.init_hidden.bias"  # vectors are saved as they are
    assert torch.equal(saved[name], checkpoint["state_dict"][f"model.{name}"])
    assert not torch.equal(saved[name], checkpoint["current_model_state"][f"model.{name}"])


def test_a_finished_training_is_not_repeated(whole, photos):
    lines = []
    assert train(whole.folder, photos, device="cpu", quick=True, say=lines.append) == whole.result
    assert len(lines) == 1
    assert "finished already" in lines[0]


def test_one_that_is_cut_in_mid_epoch_resumes_exactly(whole, photos, tmp_path):
    lines = []
    cut = train(tmp_path, photos, seconds=0, device="cpu", quick=True, max_epochs=EPOCHS, say=lines.append)
    assert not cut["finished"]
    assert (cut["steps"], cut["epochs"]) == (1, round(1 / STEPS, 2))
    assert load_model(tmp_path / "model.safetensors")
    assert any("the time is up after 1 of 6 steps" in line for line in lines)
    resumed = train(tmp_path, photos, device="cpu", quick=True, say=lines.append)  # the plan says for how long
    assert resumed["finished"]
    assert resumed["val"] == whole.result["val"]
    assert (tmp_path / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


def test_one_that_is_cut_at_an_epoch_s_end_resumes_with_the_next(tmp_path):
    photos, lines = pack_shapes(tmp_path, 6), []  # a batch is an epoch
    for done in (1, 2):
        result = train(tmp_path, photos, 0, device="cpu", quick=True, max_epochs=EPOCHS, say=lines.append)
        assert (result["steps"], result["epochs"], result["finished"]) == (done, done, done == EPOCHS)
    assert [line.partition(":")[0] for line in lines if "train loss" in line] == ["epoch 1/2", "epoch 2/2"]


def test_it_finds_out_how_many_epochs_there_is_time_for(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.short_training.MAX_EPOCHS", 2)
    monkeypatch.setattr("benchmarks.short_training.can_score", lambda: False)
    monkeypatch.setattr("benchmarks.short_parts.can_score", lambda: False)
    lines = []
    result = train(tmp_path, photos, seconds=6, device="cpu", quick=True, say=lines.append)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["seconds_per_step"] > 0
    assert 1 <= plan["max_epochs"] <= 2
    assert result["steps"] <= plan["max_epochs"] * STEPS
    assert result["val"] == {"nll": result["val"]["nll"], "greedy": None, "beam 3": None}
    assert not any("cider" in line.lower() for line in lines)
    monkeypatch.undo()
    assert score(tmp_path)["val"]["beam 3"]["CIDEr"] >= 0  # where the scores' library is
    assert json.loads((tmp_path / "result.json").read_text()) == score(tmp_path)


def test_steps_are_timed_once_they_are_warm():
    module = nn.Linear(1, 1)
    module.device = torch.device("cpu")
    for timing, expected in (
        (Timing(60.0, num_workers=1), (5 + 2) + 15),
        (Timing(-1.0, num_workers=1), 1 + 1),  # no time at all
        (Timing(-1.0, num_workers=1, compiled=True), 5 + 1),
    ):
        trainer, steps = SimpleNamespace(should_stop=False), 0
        while not trainer.should_stop:
            timing.on_train_batch_end(trainer, module)
            steps += 1
        assert steps == expected
        assert timing.per_step > 0


def test_another_training_in_the_folder_is_refused(whole, tmp_path):
    with pytest.raises(ValueError, match="holds a training with other photos: choose another --output"):
        train(whole.folder, pack_shapes(tmp_path, 6), device="cpu", quick=True)


def test_averages_look_back_over_a_part_of_the_training():
    assert Plan(30, 1000, None, 0.0, {}).decay == 0.998
    assert Plan(10, 10, None, 0.0, {}).decay == pytest.approx(0.95)
    assert Plan(1, 1, None, 0.0, {}).decay == 0.0


# ------------------------------------------------------------------------------------------ the parts


def test_all_of_a_model_s_encoder_is_trained(make_bundle, tmp_path):
    bundle = make_bundle()
    save_model(bundle, tmp_path / "tiny.safetensors", "float32", include_encoder=True)
    encoder = make_encoder(tmp_path / "tiny.safetensors", Settings())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert weights_digest(encoder) == weights_digest(bundle.model.encoder)
    assert list(encoder.pretrained())  # a learning rate of its own
    encoder.train()
    assert not any(module.training for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))


def test_an_encoder_with_random_weights_learns_like_the_decoder():
    encoder = make_encoder(None, QUICK)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert not list(encoder.pretrained())


def test_an_argument_of_the_task_is_passed_on_only_if_it_is_given(monkeypatch):
    given = {}
    monkeypatch.setattr("benchmarks.short_parts.ShortTask", lambda *parts, **options: given.update(options))
    data = SimpleNamespace(tokenizer=None, transform=None)
    encoder = make_encoder(None, QUICK)
    for cuda_graphs, expected in ((None, None), (True, True), (False, False)):
        given.clear()
        make_task(data, encoder, QUICK, False, cuda_graphs)
        assert given.get("cuda_graphs") == expected
        assert ("cuda_graphs" in given) == (cuda_graphs is not None)


# ------------------------------------------------------------------------------------------ pieces


def test_pieces_make_the_same_file_again(whole, tmp_path):
    path = tmp_path / "model.safetensors"
    content = (whole.folder / "model.safetensors").read_bytes()
    for piece_bytes in (50_000, 100_000):  # the second time fewer
        path.write_bytes(content)
        described = pieces.split(path, piece_bytes)
        named = sorted(file.name for file in tmp_path.glob("*.0*"))
        assert [piece["file"] for piece in described["pieces"]] == named
        assert len(named) == -(-len(content) // piece_bytes)
        assert max((tmp_path / name).stat().st_size for name in named) <= piece_bytes
        path.unlink()
        assert pieces.join(described, tmp_path) == path
        assert path.read_bytes() == content


@pytest.fixture
def come_back(whole, tmp_path):
    """A folder with the result and the pieces alone."""
    for file in [*whole.folder.glob("model.safetensors.*"), whole.folder / "result.json"]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_joining_needs_the_result_and_the_pieces_alone(come_back, whole, capsys):
    assert main(["--join", str(come_back)]) == 0
    assert "CIDEr" in capsys.readouterr().out
    assert (come_back / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


def test_a_piece_that_is_damaged_or_missing_is_noticed(come_back, capsys):
    piece = come_back / "model.safetensors.000"
    data = bytearray(piece.read_bytes())
    data[1000] ^= 1
    piece.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors\.000: damaged"):
        join(come_back)
    piece.unlink()
    assert main(["--join", str(come_back)]) == 2
    assert "model.safetensors.000: this piece is missing" in capsys.readouterr().err
    assert not (come_back / "model.safetensors").exists()


def test_a_description_names_no_file_elsewhere(come_back):
    result = json.loads((come_back / "result.json").read_text())
    result["model"]["file"] = "../model.safetensors"
    (come_back / "result.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="not the plain name of a file"):
        join(come_back)


# ------------------------------------------------------------------------------------------ the command line


def test_a_rehearsal_needs_no_photos(tmp_path, capsys):
    assert main(["--quick", "--device", "cpu", "--epochs", "1", "--output", str(tmp_path)]) == 0
    assert "epoch 1/1: train loss" in capsys.readouterr().out
    assert load_model(tmp_path / "model.safetensors")


def test_what_is_wrong_is_said_in_one_line(photos, tmp_path, capsys):
    (tmp_path / "damaged.zip").write_bytes(photos.read_bytes()[:-200])
    wordless = tmp_path / "wordless.zip"
    (tmp_path / "data").mkdir()
    pack([_Silent(tmp_path / "data", num_train=2, num_dev=1, size=32)], wordless, 32)
    quick = ["--quick", "--device", "cpu", "--epochs", "1"]
    cases = {
        "--output DIR is required": quick,
        "--photos ZIP is required": ["--output", "{new}"],
        "nowhere.zip: no such file": [*quick, "--output", "{new}", "--photos", "nowhere.zip"],
        "damaged.zip: damaged": [*quick, "--output", "{new}", "--photos", str(tmp_path / "damaged.zip")],
        "no word of the captions": [*quick, "--output", "{new}", "--photos", str(wordless)],
        "nowhere.safetensors: no such model file": [*quick, "--output", "{new}", "--model", "nowhere.safetensors"],
        "damaged, or not a .safetensors": [*quick, "--output", "{new}", "--photos", str(photos), "--model", __file__],
        "result.json: no such file": ["--join", str(tmp_path)],
    }
    for number, (message, arguments) in enumerate(cases.items()):
        assert main([argument.format(new=tmp_path / str(number)) for argument in arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("captioner: error: ")
        assert message in lines[0]


class _Silent(SyntheticShapes):
    """Pictures whose captions have no words."""

    def items(self, split):
        return [type(item)(item.image_id, item.path, ("...",)) for item in super().items(split)]
