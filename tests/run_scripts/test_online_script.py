"""`train.sh DATAPATH --online-learning [--online-cache]`: where pictures come from, and what is said if they
cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run_scripts.clone import Clone, make_clone


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return make_clone(tmp_path)


def test_online_learning_argument_for_argument(clone: Clone, tmp_path: Path) -> None:
    clone.add_lmdb("MUGE", "train", "valid")
    (clone.data / "valid").mkdir()
    (tmp_path / "pictures" / "红裙").mkdir(parents=True)
    valid = f"--online-dir={clone.data.resolve()}/valid"
    crawled = clone.command("train.sh", "--online-learning", SOURCE="folder", FOLDER=f"{tmp_path}/pictures")
    assert crawled[-4:] == ["--source=folder", f"--folder={tmp_path}/pictures", valid, "--online-learning"]
    cached = clone.command("train.sh", "--online-learning", "--online-cache", "--local_rank=-1")
    assert cached[-4:] == [valid, "--online-learning", "--online-cache", "--local_rank=-1"]
    spread = clone.command(
        "train.sh", "--online_learning", "--online_cache", GPUS_PER_NODE="2", ONLINE_DIR=str(tmp_path)
    )
    assert spread[:7] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "--", "run_scripts.cli"),
    ]
    assert spread[-3:] == [f"--online-dir={tmp_path}", "--online_learning", "--online_cache"]


def test_settings_of_the_source_become_flags_where_they_matter(clone: Clone) -> None:
    settings = {
        **{"SOURCE": "practice-shop", "SHOP_URL": "http://h", "ACCEPT_SITE_RULES": "true", "MIN_GAP": "9"},
        **{"MAX_QUERIES": "7", "HEADLESS": "false", "STATE_DIR": "/s", "KEEP_LOGIN": "true"},
        **{"ONLINE_BUDGET": "3", "ONLINE_PICTURES": "2", "FOLDER": "/f", "SHOP_CATALOGUE": "/c"},
    }
    expected = {f"--{name.lower().replace('_', '-')}={value}" for name, value in settings.items()}
    (clone.data / "valid").mkdir()
    clone.add_lmdb("MUGE", "train", "valid")
    assert expected < set(clone.command("train.sh", "--online-learning", "--online-cache", **settings))
    assert not expected & set(clone.command(**{**settings, "SOURCE": "of something else"}))


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [
        (["--online-cache"], {}, "--online-cache: "),
        ([], {"SOURCE": "shop"}, "--source: Input should be 'taobao', 'tbk', 'folder' or 'practice-shop'"),
        ([], {"SOURCE": "folder"}, "--source folder needs --folder PATH"),
        (
            [],
            {"SOURCE": "practice-shop"},
            "--source practice-shop needs a browser, and Chromium is not found",
        ),
    ],
)
def test_a_source_that_cannot_work_is_one_line_before_anything_starts(
    clone: Clone, flags: list[str], settings: dict[str, str], message: str
) -> None:
    clone.add_lmdb("MUGE", "train", "valid")
    given = {
        "GPUS_PER_NODE": "2",
        "CNCLIP_CHROMIUM": "/nonexistent",
        "SE_CHROMEDRIVER": "/bin/sh",
        **settings,
    }
    answer = clone.run("train.sh", clone.data, "--online-learning", *flags, **given)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"cnclip train: error: {message}") and answer.stderr.count("\n") == 1
    assert not (clone.folder / "command").exists()
