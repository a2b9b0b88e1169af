"""Counting, finding what is wrong, and clearing it away."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cache.errors import CacheError
from cache.names import hashed_name
from cache.picture_cache import PictureCache
from cache.picture_health import Kind, stats, verify
from cache.picture_meta import DAY_S, Meta, Stored, write_meta
from cache.picture_prune import prune
from tests.cache.picture_kit import NOW, age, content, jpeg, origin, put, reference_write

pytestmark = pytest.mark.usefixtures("no_sync")

HOUR_S = 3600


@pytest.fixture
def cache(tmp_path: Path) -> PictureCache:
    return PictureCache(tmp_path / "valid")


def later() -> float:
    return time.time() + HOUR_S


def found(cache: PictureCache) -> list[tuple[Kind, str]]:
    """Kinds of problems and where, an hour from now."""
    return [(p.kind, p.path.relative_to(cache.root).as_posix()) for p in verify(cache, now=later())]


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def legacy(root: Path, name: str, *labels: str) -> Path:
    (root / name).mkdir(parents=True, exist_ok=True)
    for number, label in enumerate(labels, 1):
        (root / name / f"{number}.jpg").write_bytes(jpeg(label))
    return root / name


def ailing(cache: PictureCache) -> None:
    """One of each thing that can be wrong, beside what is right."""
    root = cache.root
    for query in ("good", "cut", "gone", "old miss", "A B", "AB"):
        put(cache, query)
        put(cache, query, 2)
    (root / "cut" / "2.jpg").write_bytes(jpeg("cut 2")[:3000])
    (root / "gone" / "2.jpg").unlink()
    cache.put_miss("old miss", "empty", "", now=NOW - 8 * DAY_S)
    cache.put_miss("only an old miss", "empty", "", now=0)
    reference_write(root, "crashed", [jpeg("c", size=(500, 500))[:3000]], Image.new("RGB", (224, 224)))
    reference_write(root, "failed", [None], Image.new("RGB", (224, 224), (255, 255, 255)))
    legacy(root, "fine", "f")
    (root / "good" / ".tmp-abc").write_bytes(b"half")
    (root / "nothing").mkdir()
    legacy(root, "broken", "b", "bb")
    (root / "broken" / "meta.json").write_text('{"version": 1, "query": 3}')
    (root / "broken" / "2.jpg").write_bytes(b"damaged, but nobody knows whose")
    shutil.copytree(root / "AB", root / "moved")
    outside = legacy(root.parent, "outside", "o")
    (root / "link").symlink_to(outside)
    (root / "good" / "3.jpg").symlink_to(outside / "1.jpg")
    for name in ("x", "y", "z"):
        legacy(root, name, "the same", name)


PROBLEMS = [
    (Kind.SIDECAR, "broken/meta.json"),
    (Kind.DAMAGED, "crashed/1.jpg"),
    (Kind.SENTINEL, "crashed/0_1.jpg"),
    (Kind.DAMAGED, "cut/2.jpg"),
    (Kind.DAMAGED, "failed/1.jpg"),
    (Kind.SENTINEL, "failed/0_1.jpg"),
    (Kind.MISSING, "gone/2.jpg"),
    (Kind.LEFTOVER, "good/.tmp-abc"),
    (Kind.LINK, "good/3.jpg"),
    (Kind.LINK, "link"),
    (Kind.MISPLACED, "moved"),
    (Kind.EMPTY, "nothing"),
    *((Kind.SUSPECT, f"{name}/1.jpg") for name in ("x", "y", "z")),
]


def test_verify_finds_each_problem_once(cache: PictureCache) -> None:
    ailing(cache)
    before = tree(cache.root)
    problems = verify(cache, now=later())
    assert sorted(found(cache)) == sorted(PROBLEMS)
    assert tree(cache.root) == before
    lines = [str(problem) for problem in problems]
    root = cache.root
    assert f"{root}/broken/meta.json: broken sidecar: field query: not a text" in lines
    assert f"{root}/cut/2.jpg: damaged: not the content that its sidecar names" in lines
    assert f"{root}/failed/1.jpg: damaged: one flat colour" in lines
    assert f"{root}/x/1.jpg: suspect: one file under 3 queries, of unknown origin" in lines
    assert f"{root}/moved: misplaced: 'A B' is not looked for here" in lines


def test_prune_removes_what_may_go(cache: PictureCache) -> None:
    ailing(cache)
    before = tree(cache.root)
    good = {
        (q, n): content(cache, q, n) for q in ("good", "cut", "gone", "A B", "AB", "fine") for n in (1, 2)
    }
    rehearsed = prune(cache, now=later(), dry_run=True)
    assert tree(cache.root) == before
    done = prune(cache, now=later())
    assert (done.removed, done.left, done.bytes) == (rehearsed.removed, rehearsed.left, rehearsed.bytes)
    gone = before.keys() - tree(cache.root).keys()
    assert gone == {
        *("crashed/1.jpg", "crashed/0_1.jpg", "cut/2.jpg", "failed/1.jpg", "failed/0_1.jpg"),
        *("good/.tmp-abc", "onlyanoldmiss/meta.json"),
    }
    assert done.bytes == sum(len(before[name]) for name in gone if not name.endswith(".json"))
    human = [Kind.SIDECAR, Kind.LINK, Kind.LINK, Kind.MISPLACED]
    assert sorted(kind for kind, _ in found(cache)) == sorted([*human, *[Kind.SUSPECT] * 3])
    assert sorted(problem.kind for problem in done.left) == sorted(human)
    assert {(q, n): content(cache, q, n) for q, n in good} == good
    names = {path.name for path in cache.root.iterdir()}
    assert not names & {"crashed", "failed", "nothing", "onlyanoldmiss"}
    again = prune(cache, now=later())
    assert (again.removed, again.bytes) == ([], 0)
    # The names are free again.
    assert put(cache, "only an old miss") == content(cache, "only an old miss")


def test_prune_suspects(cache: PictureCache) -> None:
    ailing(cache)
    prune(cache, now=later(), suspects=True)
    assert Kind.SUSPECT not in {kind for kind, _ in found(cache)}
    for name in ("x", "y", "z"):
        assert cache.pictures(name) == {2: cache.root / name / "2.jpg"}


def test_suspects_are_of_unknown_origin_and_under_three_queries(cache: PictureCache) -> None:
    for name in ("a", "b"):
        legacy(cache.root, name, "same")
    for query in ("c", "d", "e"):  # a shop's best seller: where it came from is known
        put(cache, query, label="same")
    legacy(cache.root, "f", "other", "other", "other")  # one query
    assert verify(cache, now=later()) == []
    legacy(cache.root, "g", "same")
    assert found(cache) == [(Kind.SUSPECT, f"{name}/1.jpg") for name in ("a", "b", "g")]


def test_what_may_still_be_at_work_is_left_alone(cache: PictureCache) -> None:
    now = time.time()
    folder = legacy(cache.root, "busy")
    (folder / "0_1.jpg").write_bytes(jpeg("card"))
    (folder / "1.jpg").write_bytes(jpeg("x")[:3000])  # the other tool is writing it
    (folder / ".tmp-abc").write_bytes(b"half")
    (cache.root / "just made").mkdir()
    assert verify(cache, now=now) == []
    assert prune(cache, now=now).removed == []
    assert len(found(cache)) == 4


def test_a_broken_sidecar_stays(cache: PictureCache) -> None:
    folder = legacy(cache.root, "broken")
    (folder / "meta.json").write_text("{")
    (folder / "0_1.jpg").write_bytes(jpeg("card"))
    assert [problem.kind for problem in prune(cache, now=later()).removed] == [Kind.SENTINEL]
    assert [path.name for path in folder.iterdir()] == ["meta.json"]


@pytest.mark.parametrize("days", [0, 5, 20])
def test_prune_by_age(cache: PictureCache, days: int) -> None:
    now = time.time()

    def then(days_ago: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - days_ago * DAY_S))

    cache.put("new", 1, jpeg("new"), origin(fetched_at=then(1)))
    cache.put("old", 1, jpeg("old"), origin(fetched_at=then(10)))
    cache.put("old", 2, jpeg("old 2"), origin(fetched_at=then(30)))
    age(legacy(cache.root, "legacy", "l") / "1.jpg", 10 * DAY_S)
    left = {0: {}, 5: {"new": [1]}, 20: {"new": [1], "old": [1], "legacy": [1]}}[days]
    prune(cache, now=now, older_than_s=days * DAY_S)
    assert {path.name: list(cache.pictures(path.name)) for path in cache.root.glob("[a-z]*")} == left
    assert verify(cache, now=now + HOUR_S) == []


def test_a_replacement_that_was_interrupted_is_sound(cache: PictureCache) -> None:
    put(cache, "红", label="old")
    put(cache, "红", 2)
    folder = cache.root / "红"
    entries = {n: Stored(s.sha256, s.provenance) for n, s in next(cache.queries()).meta.pictures.items()}
    write_meta(folder, Meta("红", {**entries, 1: replace(entries[1], sha256="0" * 64)}, {1: entries[1]}))
    assert content(cache, "红") == jpeg("old")
    assert verify(cache, now=later()) == [] and prune(cache, now=later()).removed == []
    put(cache, "红", 2, "another")  # keeps what the interrupted one had secured
    assert content(cache, "红") == jpeg("old")


def test_prune_says_what_it_cannot_write(cache: PictureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    ailing(cache)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", denied)
    with pytest.raises(CacheError, match=r"/crashed: cannot be written: Permission denied"):
        prune(cache, now=later())


def test_stats(cache: PictureCache) -> None:
    put(cache, "a", 1)
    cache.put("a", 2, jpeg("a2"), origin(fetched_at="2026-11-01T10:00:00+08:00"))
    cache.put("b", 5, jpeg("b5"), replace(origin(fetched_at="2026-11-01T04:00:00Z"), source="folder"))
    legacy(cache.root, "c", "c", "cc")
    cache.put_miss("a", "no_good_picture", "", now=NOW)
    cache.put_miss("d", "empty", "", now=NOW - 6 * DAY_S)
    cache.put_miss("e", "empty", "", now=NOW - 8 * DAY_S)
    (legacy(cache.root, "f", "f") / "meta.json").write_text("[]")
    counts = stats(cache, now=NOW).to_dict()
    size = sum(path.stat().st_size for path in cache.root.rglob("*.jpg"))
    assert counts.pop("broken") == [f"{cache.root}/f/meta.json: not a JSON object"]
    assert counts == {
        "queries": 4,
        "pictures": 6,
        "by_number": {"1": 3, "2": 2, "3": 0, "4": 0, "5": 1},
        "misses": {"empty": 1, "no_good_picture": 1},
        "expired": 1,
        "bytes": size,
        "sources": {"folder": 1, "shop": 2, "unknown": 3},
        "oldest": "2026-11-01T10:00:00+08:00",
        "newest": "2026-12-01T10:00:00+00:00",
    }


def test_without_a_cache(cache: PictureCache) -> None:
    for action in (stats, verify, prune):
        with pytest.raises(CacheError, match=r"valid: cannot be read: No such file"):
            action(cache, now=NOW)
    cache.root.mkdir()
    assert verify(cache, now=NOW) == []
    assert stats(cache, now=NOW).to_dict()["by_number"] == {str(number): 0 for number in range(1, 6)}


def test_progress_counts_folders(cache: PictureCache) -> None:
    for query in ("a", "b", "A B", "AB"):
        put(cache, query)
    assert cache.directory("AB").name == hashed_name("AB")
    seen: list[tuple[int, int]] = []
    verify(cache, now=NOW, on_progress=lambda done, total: seen.append((done, total)))
    prune(cache, now=NOW, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
