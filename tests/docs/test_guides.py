"""docs/choosing-settings.md, when-it-goes-wrong.md: links lead somewhere, settings are there, messages are printed."""

import re
from pathlib import Path

import pytest

from act_ray import settings
from act_ray.explain.words import describe
from act_ray.train.detect import feed, make_detector
from act_ray.tune.recorded import load_recorded
from tests.helpers.command import Ended
from tests.helpers.tiny_settings import TINY, as_options

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("choosing-settings.md", "when-it-goes-wrong.md")
WRONG = (DOCS / "when-it-goes-wrong.md").read_text()
# Every line that a command is said to print, in a code block or between backticks, which may hold a command.
_LINES = re.findall(r"^(error: .*)$", WRONG, re.M) + re.findall(r"`(error: [^`]*(?:`act-ray[^`]*`[^`]*)?)`", WRONG)
QUOTED = [line.removeprefix("error: ") for line in _LINES if line != "error: ..."]  # which says how all begin
SHORT = ["--workers", "0", "--dry-run"]
PHOTOS = ["--preset", "cifar10_16", *SHORT, "--data"]


@pytest.mark.parametrize("name", [*PAGES, "your-own-images.md"])
def test_links_lead_to_files_and_headings(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (DOCS / name).read_text())
    assert len(links) > 2
    for link in links:
        path, _, anchor = link.partition("#")
        target = DOCS / (path or name)
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if target.suffix == ".md" else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], link


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_that_is_named_is_there(name: str) -> None:
    known = settings.field_names()
    sections = {setting.partition(".")[0] for setting in known}
    named = re.findall(r"`(?:--set )?(\w+\.\w+)(?:=[^`]*)?`", (DOCS / name).read_text())
    assert len(named) > 20
    files = ("jsonl", "json", "yaml", "md", "py")
    assert not {n for n in named if n.partition(".")[0] in sections and not n.endswith(files)} - set(known)


def mistake(ended: Ended) -> str:
    """The mistake that a command ended with; data that is opened for the first time is told of before."""
    assert ended.code == 2
    return ended.err.splitlines()[-1].removeprefix("error: ")


def is_quoted(message: str) -> bool:
    """Whether the page has this message, or all that are joined in it.

    The page's words in capitals stand for anything, and so do three dots.
    """
    text = re.sub(r"[^\s`]*python[^\s`]* -m act_ray\.", "act-ray ", message)
    patterns = (re.sub(r"\\\.\\\.\\\.|\b(?!MNIST|SHA)[A-Z]{2,}\b", ".*", re.escape(quote)) for quote in QUOTED)
    one = f"(?:{'|'.join(patterns)})"
    return re.fullmatch(f"{one}(?:; {one})*", text) is not None


def test_what_is_not_on_the_page_is_not_taken_for_it() -> None:
    assert not is_quoted("nothing of the kind is printed")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of images with a fault each, and prepared ones, in the current folder."""
    import numpy as np
    from PIL import Image

    def images(name: str, n: int, shape: tuple[int, ...]) -> None:
        (tmp_path / name).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 255, (n, *shape), dtype=np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / name / f"{i:03}.png")

    images("square", 40, (16, 16, 3))
    images("ten", 40, (10, 10, 3))
    images("grey", 40, (16, 16))
    images("wide", 5, (12, 16, 3))
    images("bad", 20, (16, 16, 3))
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    images("both/train", 5, (16, 16, 3))
    images("both/val", 5, (16, 16, 3))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_prepare_says_is_on_the_page(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Ended(capfd, "prepare", "square", "done").succeeded()
    for arguments in (
        ("texts", "new"), ("wide", "new"), ("bad", "new"), ("both", "new"), ("square", "texts"), ("ten", "done"),
    ):  # fmt: skip
        message = mistake(Ended(capfd, "prepare", *arguments))
        assert is_quoted(message), message


def test_what_train_says_of_data_and_weights_is_on_the_page(
    folders: Path, capfd: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    for name in ("square", "ten", "grey", "both/val"):
        Ended(capfd, "prepare", name, f"{name.partition('/')[0]}-done").succeeded()
    inception = ["--set", "eval.features=inception"]
    for arguments in (
        ["nowhere"], ["square"], ["ten-done"], ["square-done", "--set", "model.num_classes=10"],
        ["grey-done", "--set", "loss.distance=lpips"], ["square-done", "--set", "loss.distance=lpips"],
        ["square-done", *inception], ["square-done", "--set", "discriminator.kind=projected"],
        ["square-done", "--set", "data.subset=500"],
    ):  # fmt: skip
        message = mistake(Ended(capfd, "train", *PHOTOS, *arguments))
        assert is_quoted(message), message
    shard = folders / "both-done" / "shard-00000.parquet"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    message = mistake(Ended(capfd, "train", *PHOTOS, "both-done"))
    assert is_quoted(message), message


def test_what_other_mistakes_say_is_on_the_page(folders: Path, capfd: pytest.CaptureFixture[str], whole: Path) -> None:
    for arguments in (
        ["train", "--resume", "nowhere"], ["train", "--set", "loss.gpweight=1", *SHORT],
        ["train", "--set", "loss.w=2", *SHORT],
        ["train", "--set", "train.global_batch=30", "--workers", "4", "--dry-run"],
        ["train", "--storage", str(whole.parent), "--name", whole.name, *SHORT],
        ["tune", "--resume", "nowhere"], ["dashboard", ".", "--host", "0.0.0.0"], ["dashboard", ".", "--token", "abc"],
    ):  # fmt: skip
        message = mistake(Ended(capfd, *arguments))
        assert is_quoted(message), message


def test_what_a_run_that_diverges_says_is_on_the_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = as_options({**TINY, "train.total_steps": 40, "optim.lr_g": 1e3})
    ended = Ended(capfd, "train", "--workers", "0", "--name", "run", *options)
    assert ended.code == 1
    shown = re.findall(r"^(?:step 2: |stopped at |evidence: ).*$", WRONG, re.M)
    assert len(shown) == 3
    for line in shown:
        assert line.replace("RUN", str(tmp_path / "runs" / "run")) in ended.out.splitlines()


def test_what_explain_says_of_recorded_runs_is_on_the_page() -> None:
    """The examples of the page are these runs', replayed."""
    shown = {"drift": "000-f42e1baf", "worse": "003-388f0752", "spike": "013-2b289be5", "steep": "010-9b8d9535",
             "mode-collapse": "015-ff46068c"}  # fmt: skip
    runs = {run.name.partition("/")[2]: run for run in load_recorded(str(DOCS.parent / "benchmarks/search/traces"))}
    for signature, name in shown.items():
        detector = make_detector(runs[name].cfg)
        for _ in feed(detector, list(runs[name].rows()), runs[name].scores):
            pass
        assert detector.record is not None
        decision = next(describe(detector.record))
        assert decision.startswith(f"{signature} at step")
        assert decision in WRONG.splitlines()
