"""The shape of the code: who may import whom, how long a file may be, what a command's help may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from run_scripts.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cnclip", "service", "crawler", "cache", "preprocess", "run_scripts")

# package -> what of our own code it may import, itself aside
ALLOWED: dict[str, tuple[str, ...]] = {
    "cnclip": (),
    "cache": (),
    "service": ("cnclip", "cache"),
    "crawler": ("cache",),
    "preprocess": ("cnclip.data", "cnclip.errors"),
    "run_scripts": PACKAGES,
}
FORBIDDEN_LIBRARIES = {"crawler": {"torch", "faiss"}, "cache": {"torch", "faiss"}}
HEAVY = ("torch", "faiss", "numpy", "transformers")
MAX_LINES, MAX_MODEL_LINES = 300, 350


def source_files(*folders: str) -> list[Path]:
    """All Python files below these folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_names(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in `source`, inside functions too; `package` resolves dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def violation(package: str, name: str) -> bool:
    """Whether code in top-level `package` must not import `name`."""
    top = name.partition(".")[0]
    if top in FORBIDDEN_LIBRARIES.get(package, set()) or top == "tests":
        return True
    if top not in PACKAGES or top == package:
        return False
    return not any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED[package])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_go_one_way() -> None:
    found = [
        f"{relative(path)}:{line}: imports {name}"
        for path in source_files(*PACKAGES)
        for line, name in imported_names(
            path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parent.parts)
        )
        if violation(path.relative_to(ROOT).parts[0], name)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "name", "forbidden"),
    [
        ("cnclip", "service.app", True),
        ("cnclip", "cnclip.model.encoder", False),
        ("crawler", "torch.nn", True),
        ("crawler", "cnclip.errors", True),
        ("preprocess", "cnclip.data.muge", False),
        ("preprocess", "cnclip.database", True),
        ("preprocess", "cnclip.model.encoder", True),
        ("service", "cnclip.image", False),
        ("service", "crawler.search", True),
        ("cache", "numpy", False),
        ("run_scripts", "crawler.search", False),
        ("run_scripts", "tests.fakes", True),
    ],
)
def test_the_rule_itself(package: str, name: str, forbidden: bool) -> None:
    assert violation(package, name) is forbidden


def test_imports_are_seen_wherever_they_hide() -> None:
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\ndef h():\n    import i\n"
    names = {name for _, name in imported_names(source, "top.sub")}
    assert names == {"a.b", "c.d", "top.sub.e", "top.f.g", "i"}


def test_files_are_short() -> None:
    def limit(path: Path) -> int:
        return MAX_MODEL_LINES if relative(path).startswith("cnclip/model/") else MAX_LINES

    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in source_files(*PACKAGES, "tests")
    }
    too_long = [
        f"{relative(path)}: {length} lines" for path, length in lengths.items() if length > limit(path)
    ]
    assert not too_long, "\n".join(too_long)


def test_every_file_starts_with_the_future_import() -> None:
    lacking = [
        relative(path)
        for path in source_files(*PACKAGES, "tests")
        if (text := path.read_text(encoding="utf-8")).strip()
        and "from __future__ import annotations" not in text
    ]
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_loads_nothing_heavy(command: str | None) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    probe = f"""
import sys
from run_scripts.cli import main
try:
    main({arguments!r})
except SystemExit as stop:
    assert stop.code == 0, stop.code
print("LOADED", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "usage: cnclip" in answer.stdout
    assert answer.stdout.splitlines()[-1].split() == ["LOADED"]
