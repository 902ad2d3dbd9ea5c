"""`captioner shards`, and the commands that read what it wrote."""

from __future__ import annotations

import json
import shutil

import fsspec
import pytest
import yaml

from captioner.cli.main import main
from captioner.data import find_reader
from captioner.data.shards import writer as shard_writer


@pytest.fixture
def run(capsys):
    """Runs a command; its exit status, lines of stdout and lines of stderr."""

    def run(*arguments):
        status = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    """METEOR and the official tokenizer are tested where they are made."""
    for module in ("java", "scores"):
        monkeypatch.setattr(f"captioner.metrics.{module}.find_java", lambda: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory, draw):
    root = tmp_path_factory.mktemp("data")
    lines = ["image,caption,split"]
    for number in range(10):
        draw(number).save(root / f"{number}.png")
        lines.append(f"{number}.png,a red dog runs,{'dev' if number > 5 else 'train'}")
    (root / "captions.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def shards(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    assert main(["shards", "--data", str(data), "--split", "train", "--split", "val", "--output", str(folder)]) == 0
    return folder


def captions(lines):
    """By the number of the photo."""
    pairs = (line.partition(": ") for line in lines)
    return {int(name.rpartition("/")[2].partition(".")[0]): caption for name, _, caption in pairs}


def test_a_data_set_is_packed(run, data, tmp_path):
    status, out, err = run("shards", "--data", data, "--split", "train", "--split", "val", "--output", tmp_path / "x")
    assert (status, err) == (0, [])
    assert out == [
        f"train: 6 images in 1 shards: {tmp_path}/x/train-000000.tar",
        f"dev: 4 images in 1 shards: {tmp_path}/x/dev-000000.tar",
    ]
    assert find_reader(tmp_path / "x").splits == ("dev", "train")
    again, _, err = run("shards", "--data", data, "--split", "train", "--output", tmp_path / "x")
    assert again == 2
    assert "train-000000.tar is there already" in err[0]


def test_the_same_command_finishes_what_a_killed_one_began(run, data, tmp_path, monkeypatch):
    command = ("shards", "--data", data, "--output", tmp_path)

    def fail(shard):
        raise KeyboardInterrupt  # in the second split

    with monkeypatch.context() as patch:
        original = shard_writer.index_shard
        patch.setattr(shard_writer, "index_shard", lambda url: original(url) if "train" in url else fail(url))
        assert run(*command)[0] == 130
    train = (tmp_path / "train-000000.tar").stat().st_mtime_ns
    status, _, err = run("caption", f"{tmp_path}/dev-*.tar")
    assert status == 2
    assert "dev-*.tar: not all shards of this split are there" in err[-1]
    status, _, err = run("evaluate", "--data", tmp_path, "--split", "train", "--output", tmp_path / "out")
    assert status == 2
    assert "dev-*.tar: not all shards of this split are there" in err[-1]
    status, out, err = run(*command)
    assert (status, err) == (0, [])
    assert out == ["train: was packed before", f"dev: 4 images in 1 shards: {tmp_path}/dev-000000.tar"]
    assert (tmp_path / "train-000000.tar").stat().st_mtime_ns == train
    assert find_reader(tmp_path).splits == ("dev", "train")
    assert run(*command)[0] == 2


def test_a_data_set_of_broken_images_makes_no_shard(run, tmp_path):
    (tmp_path / "x.png").mkdir()
    (tmp_path / "captions.csv").write_text("image,caption\nx.png,a red dog runs")
    status, out, err = run("shards", "--data", tmp_path, "--split", "train", "--output", tmp_path / "out")
    assert (status, out) == (1, ["train: 0 images in 0 shards"])
    assert len(err) == 1


def test_shards_of_others_are_indexed(run, shards, tmp_path):
    for path in shards.glob("*.tar"):
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    status, out, err = run("shards", f"{tmp_path}/*.tar", "--output", tmp_path / "indices")
    assert (status, out) == (1, ["10 images in 2 of 3 shards"])
    assert err == [f"captioner: {tmp_path}/broken.tar: damaged or cut short (truncated header)"]
    for path in shards.glob("*.jsonl"):
        assert (tmp_path / "indices" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--output", "x"), "give --data, or shards to index"),
        (("x.tar", "--data", "y"), "give --data, or shards to index"),
        (("none-*.tar",), "none-*.tar: no shard matches this pattern"),
        (("x.tar", "--split", "dev"), "--split goes with --data"),
        (("pipe:ls",), "programs are not run"),
    ],
)
def test_wrong_arguments(run, arguments, reason):
    status, _, err = run("shards", *arguments)
    assert status == 2
    assert reason in err[0]


def test_photos_in_shards_are_captioned_as_files_are(run, data, shards, model_file):
    model = ("--model", model_file, "--device", "cpu", "--batch-size", 3)
    files = captions(run("caption", *model, data)[1])
    status, out, err = run("caption", *model, f"{shards}/{{train,dev}}-*.tar")
    assert (status, err) == (0, [])
    assert out[0].startswith(f"{shards}/train-000000.tar/000000000.png: ")
    assert [line.partition(": ")[2] for line in out] == [files[number] for number in range(10)]
    system = fsspec.filesystem("memory")
    system.put(f"{shards}/dev-000000.tar", "/captioned/dev.tar")
    status, remote, _ = run("caption", *model, "memory://captioned/dev.tar")
    system.rm("/captioned", recursive=True)
    assert [line.partition(": ")[2] for line in remote] == [files[number] for number in range(6, 10)]


def test_a_shard_cut_short_and_photos_beside_it(run, data, shards, model_file, tmp_path):
    shard, output = tmp_path / "cut.tar", tmp_path / "out.jsonl"
    shard.write_bytes((shards / "train-000000.tar").read_bytes()[:-11000])
    paths = (data / "7.png", shard, tmp_path / "none.tar", tmp_path / "none-*.tar", data / "8.png")
    status, _, err = run("caption", "--model", model_file, "--device", "cpu", *paths, "--output", output)
    assert status == 1
    assert [line.partition(" (")[0] for line in err] == [
        f"captioner: {tmp_path}/none-*.tar: no shard matches this pattern",
        f"captioner: {shard}: damaged or cut short",
        f"captioner: {tmp_path}/none.tar: no such file",
    ]
    names = [json.loads(line)["image"] for line in output.read_text().splitlines()]
    assert names[:2] == [str(data / "7.png"), str(data / "8.png")]
    assert names[2:] == [f"{shard}/{number:09d}.png" for number in range(len(names) - 2)]
    assert len(names) > 5


def test_maps_of_photos_in_a_shard(run, shards, model_file, tmp_path):
    arguments = ("--model", model_file, "--device", "cpu", "--output", tmp_path)
    status, out, _ = run("heatmap", *arguments, shards / "dev-000000.tar")
    assert (status, out) == (0, [f"4 of 4 drawn into {tmp_path}"])
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_a_config_that_reads_shards(run, data, shards, model_file, tmp_path):
    reader = {"class_path": "Shards", "init_args": {"shards": {"dev": f"{shards}/dev-*.tar"}}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data": {"reader": reader}}))
    results = []
    for source in (config, data):
        arguments = ("--model", model_file, "--device", "cpu", "--data", source, "--output", tmp_path / source.stem)
        status, _, err = run("evaluate", *arguments, "--split", "dev")
        assert (status, err) == (0, [])
        results.append(json.loads((tmp_path / source.stem / "captions.json").read_text()))
    assert results[0] == results[1]
    status, out, _ = run("shards", "--data", config, "--output", tmp_path / "again")
    assert (status, len(out)) == (0, 1)
