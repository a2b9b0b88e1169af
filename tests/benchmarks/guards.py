"""Switch each guard of the crawler off in turn: a test must fail.

    python -m tests.benchmarks.guards [--only NAME] [--jobs 2]

Works on a copy of the tree. Prints a line per guard, and returns 1 if one is not missed by any test.
"""

# ruff: noqa: E501  (a table)
from __future__ import annotations

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "cnclip",
    "service",
    "crawler",
    "cache",
    "preprocess",
    "run_scripts",
    "tests",
    "docs",
    "pyproject.toml",
)
TIMEOUT_S = 600


@dataclass(frozen=True)
class Guard:
    """A place in the code whose removal must be noticed. `new` replaces `old`, which stands there once."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def _policy(
    name: str, old: str, new: str, tests: str = "test_policy.py test_crawl.py test_crawl_stops.py"
) -> Guard:
    return Guard(name, "crawler/policy.py", old, new, tests)


def _crawl(name: str, old: str, new: str) -> Guard:
    return Guard(name, "crawler/crawl.py", old, new, "test_crawl.py test_crawl_stops.py")


def _search(name: str, old: str, new: str) -> Guard:
    return Guard(name, "crawler/search.py", old, new, "test_crawl.py test_crawl_stops.py")


def _command(name: str, file: str, old: str, new: str) -> Guard:
    return Guard(name, f"{file}.py", old, new, "../run_scripts/test_crawl_command.py test_login_command.py")


def _check(name: str, old: str, new: str) -> Guard:
    return Guard(
        name, "crawler/picture_checks.py", old, new, "test_picture_checks.py test_picture_duplicates.py"
    )


def _fetch(name: str, old: str, new: str) -> Guard:
    return Guard(name, "crawler/pictures.py", old, new, "test_pictures.py test_pictures_limits.py")


def _page(name: str, file: str, old: str, new: str) -> Guard:
    return Guard(
        name,
        f"crawler/{file}.py",
        old,
        new,
        "test_classify.py test_layouts.py test_web_source.py test_image_urls.py",
    )


def _cache(name: str, file: str, old: str, new: str) -> Guard:
    return Guard(name, f"cache/{file}.py", old, new, "../cache")


GUARDS = (
    _policy("pause between searches", "if elapsed < gap:", "if False:"),
    _policy("pause kept across runs", "elapsed = min(elapsed, since_last_run)", "pass"),
    _policy("pause between pictures", "if left > 0:\n            self._clock.sleep(left)", "if False:\n            pass"),
    _policy("cool-down", "if left > 0:\n            until", "if False:\n            until"),
    _policy("resume by a human", "if not self._resume:", "if False:"),
    _policy("cool-down doubles", "self._state.cooldown_s * 2", "self._state.cooldown_s"),
    _policy("circuit breaker", "if self._failures >= self.pace.breaker:", "if False:"),
    _policy("block is written down", "self._state.good_since = 0\n        self._save()", "self._state.good_since = 0"),
    _search("stop at a block", "if not result.state.blocked:", "if True:"),
    _crawl("layout changed", "if self._unknown_in_a_row >= MAX_UNKNOWN:", "if False:"),
    _search("second expiry stops", "if now - self._expired_at < RELOGIN_S:", "if False:"),
    _search("one browser restart", "if self._since_restart < RESTART_AFTER:", "if False:"),
    _crawl("cap of a run", "if self.summary.asked >= self._options.max_queries:", "if False:"),
    _crawl("cached costs nothing", "if not missing:", "if False:"),
    _crawl("known misses", "if miss and not", "if False and not"),
    _crawl("nothing to search for", "if not searchable(query):", "if False:"),
    _search("block at the login", "if error.state is None:\n                raise", "raise"),
    Guard("no duplicates in a query", "crawler/collect.py", "if not any(is_duplicate", "if True or not any(is_duplicate", "test_crawl.py"),
    Guard("retry waits", "crawler/collect.py", "self._clock.sleep(wait)", "pass", "test_crawl.py"),
    Guard("throttling host is left alone", "crawler/collect.py", "if picture is Refusal.THROTTLED:", "if False:", "test_crawl.py"),
    _search("block remembered first", "error = self._policy.blocked(state)\n", "self.dump(state.value)\n        error = self._policy.blocked(state)\n"),
    _command("consent", "run_scripts/crawl_source", "if not is_local(profile):", "if False:"),
    _command("least pace", "run_scripts/crawl_source", "if not pace.gap_s <= min_gap <= MAX_GAP_S:", "if False:"),
    _command("what is local", "run_scripts/crawl_source", "return all(map(_is_loopback, [*hosts,", "return any(map(_is_loopback, [*hosts,"),
    _command("polite profiles", "run_scripts/crawl_source", "if getattr(profile.pace, name) < getattr(least, name):", "if False:"),
    _command("orphaned crawl", "run_scripts/crawl_queries", "return parent is not None and parent != str(os.getppid())", "return False"),
    Guard("who may be talked to", "crawler/profile.py", "if same and (port in ports or", "if same or (port in ports or", "test_profile.py"),
    Guard("one crawl a cache", "crawler/presence.py", "self._lock.acquire(timeout=LOCK_TIMEOUT_S)", "pass", "test_provider.py"),
    Guard("stale status", "crawler/presence.py", 'if float(content["written"]) < since:', "if False:", "test_provider.py"),
    Guard("deadline of a learner", "crawler/provider.py", "or self._clock.monotonic() >= deadline", "", "test_provider.py"),
    Guard("cache only", "crawler/provider.py", "at_work = self._wait and self._at_work()", "at_work = self._at_work()", "test_provider.py"),
    _check("known placeholders", "if sha256 in placeholders:", "if False:"),
    _check("fewest bytes", "if len(data) < MIN_BYTES:", "if False:"),
    _check("most pixels", "if image.width * image.height > MAX_PIXELS:", "if False:"),
    _check("fewest pixels", "if min(image.size) < MIN_SIDE:", "if False:"),
    _check("flat pictures", "if deviation < FLAT_STD:", "if False:"),
    _check("formats by content", "formats=_formats()", "formats=None"),
    _fetch("hosts, redirects too", "if not host_allowed(address, self._hosts):", "if False:"),
    _fetch("internal addresses", "if not _means_itself(host) and any(", "if False and any("),
    _fetch("status", "if status != 200:", "if False:"),
    _fetch("declared type", 'if not content_type.strip().lower().startswith("image/"):', "if False:"),
    _fetch("encodings", 'if encoding != "identity":', "if False:"),
    _fetch("bytes announced", "if length.isdecimal() and", "if False and"),
    _fetch("bytes received", "if len(body) > self._max_bytes:", "if False:"),
    _fetch("total time", "if left <= 0:", "if False:"),
    _page("advertisements", "layouts", "return bool(row.ads) or any(", "return False and any("),
    _page("recommendations below", "layouts", "return list(cards[:end])", "return list(cards)"),
    _page("one item a card", "layouts", "if len(items) == 1 else None", "if items else None"),
    _page("one list", "layouts", "or len({row.path[:-1] for row in rows}) > 1", ""),
    _page("titles speak of the query", "layouts", "if 2 * speaking < len(found.candidates):", "if False:"),
    _page("another query's page", "classify", "if other is not None:", "if False:"),
    _page("another site", "classify", "if not host_allowed(snapshot.url, profile.hosts.page):", "if False:"),
    _page("challenge before results", "classify", "if _in_the_way(sign, snapshot, bool(found.candidates), final):", "if False:"),
    _page("small frames beside results", "classify", "if results or sign.state is PageState.LOGIN_WALL:\n        return False", "pass"),
    _page("empty above recommendations", "classify", "    if empty:\n", "    if False:\n"),
    _page("icons and blanks", "image_urls", 'return "" if is_other or not', 'return "" if not'),
    _page("badges", "image_urls", "< BADGE_PX:", "< 0:"),
    _page("redraws", "sources/web", "if verdict.state is not PageState.RESULTS or not same:", "if verdict.state is not PageState.RESULTS:"),
    _cache("content fits the sidecar", "picture_folder", "if entry.sha256 == digest", "if True"),
    _cache("names that clash", "picture_cache", "not self._names.clashes(plain)", "True"),
    _cache("names that escape", "names", "_UNFIT.search(name) or len(name.encode()) > MAX_NAME_BYTES", "False"),
    _cache("expiry of misses", "picture_cache", "meta.miss.expired(time.time() if now is None else now)", "False"),
    _cache("what is stored", "picture_cache", "if problem := own_problem(jpeg):", "if problem := None:"),
)  # fmt: skip


def main() -> int:
    """Run the check. Returns 0 when every guard is missed by a test."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="guards whose name contains this")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="guards at a time (2)")
    args = parser.parse_args()
    chosen = [guard for guard in GUARDS if args.only in guard.name]
    kept = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for guard, (missed, seen) in zip(chosen, pool.map(without, chosen), strict=True):
            kept += missed
            sys.stdout.write(f"{'missed' if missed else 'NOT MISSED':<11} {guard.name:<32} {seen}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{kept} of {len(chosen)} guards are missed by a test when they are off\n")
    return 0 if kept == len(chosen) else 1


def without(guard: Guard) -> tuple[bool, str]:
    """Whether a test fails without the guard, and the first one that does (or what went wrong)."""
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("weights", "__pycache__"))
            else:
                shutil.copy(source, root / name)
        path = root / guard.file
        text = path.read_text(encoding="utf-8")
        if text.count(guard.old) != 1:
            return False, f"{guard.file} has this {text.count(guard.old)} times: {guard.old!r}"
        path.write_text(text.replace(guard.old, guard.new), encoding="utf-8")
        tests = [str(Path("tests/crawler", name)) for name in guard.tests.split()]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            *tests,
        ]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    if run.returncode == 1 and failed:
        return True, failed[0].split(" - ")[0].removeprefix("FAILED tests/")
    return False, (run.stdout.splitlines() or ["?"])[-1]


if __name__ == "__main__":
    sys.exit(main())
