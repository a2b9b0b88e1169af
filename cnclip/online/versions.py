"""Model versions on disk: what the learner publishes and the service activates.

    MODELS/NAME/VERSION/model.safetensors    the weights, for `cnclip.load`
    MODELS/NAME/VERSION/version.json         what they are, and what they came from
    MODELS/NAME/VERSION/report.json, …       files that the publisher hands over

NAME is the line of models ("lite"), VERSION its number ("0001", "0002", …). A version is written aside and
renamed into its place, so that it is whole or not there, and never changes afterwards. Any number of
processes may publish, list and prune at a time; loading torch is left to `publish`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cnclip.errors import InputError, WeightsError
from cnclip.online.version_record import (
    NAME,
    RECORD_NAME,
    VERSION,
    WEIGHTS_NAME,
    Changed,
    Parent,
    Version,
    new_record,
    read_version,
)

if TYPE_CHECKING:
    import torch

    from cnclip.model.dual_encoder import DualEncoder
    from cnclip.model.fingerprint import Identity

__all__ = ["RECORD_NAME", "WEIGHTS_NAME", "Changed", "ModelVersions", "Parent", "Version"]

logger = logging.getLogger(__name__)

_TEMPORARY = ".tmp-"
_STALE_S = 24 * 3600.0  # what a killed publisher left; a living one is done in minutes
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES)  # EACCES: how Windows says it


Versions = list[Version]


class ModelVersions:
    """The versions below `root`, which need not exist until something is published."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def publish(
        self,
        name: str,
        model: DualEncoder,
        *,
        parent: Version | None = None,
        parent_weights: str | Path | None = None,
        summary: Mapping[str, float] | None = None,
        files: Mapping[str, str | bytes | Path] | None = None,
        state: Mapping[str, torch.Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Version:
        """Write the next version of `name`; durable, and to be seen by others, when it returns.

        Args:
            name: letters, digits, "_", "-", "."; at most 64.
            parent: the version that this one was learned from. parent_weights: the same for a model that is
                not a version: a name or path for `cnclip.load`. With neither, both towers count as changed.
            files: by plain file name: text, bytes, or the path of a file to copy ("report.json", …).
            state: the weights, where they are not simply the model's own (sharded training).
            dtype: of the stored weights; by default as they are. float16 keeps the fingerprint.

        Raises:
            InputError: a name or file name that will not do, a summary that is not finite numbers, or a disk
                that refuses. WeightsError: the weights are not finite, or the parent's are broken.
        """
        from cnclip.model.save import save_safetensors

        record = new_record(name, summary or {}, files or {})
        home = self.root / name
        with _temporary_folder(home) as folder:
            save_safetensors(model, folder / WEIGHTS_NAME, dtype=dtype, state=state)
            for file_name, content in (files or {}).items():
                _write(folder / file_name, content)
            identity = _identity(folder / WEIGHTS_NAME)  # read again: what is published can be loaded
            record.update(
                fingerprint=identity.whole,
                image_fingerprint=identity.image,
                text_fingerprint=identity.text,
                **_descent(name, identity, parent, parent_weights),
            )
            return _place(folder, home, record)

    def list(self, name: str | None = None) -> Versions:
        """All versions, or those of `name`: by name, then oldest first. Other folders are left out."""
        homes = _folders(self.root) if name is None else [self.root / name] if NAME.fullmatch(name) else []
        found: list[Version] = []
        for home in sorted(home for home in homes if NAME.fullmatch(home.name)):
            versions: list[Version] = []
            for folder in _folders(home):
                if not VERSION.fullmatch(folder.name):
                    continue
                try:
                    versions.append(read_version(folder))
                except FileNotFoundError:
                    continue  # pruned meanwhile
                except (InputError, OSError) as error:
                    logger.warning("not a model version: %s", error)
            found += sorted(versions, key=lambda version: version.number)
        return found

    def get(self, name: str, version: str) -> Version:
        """One version. Raises InputError naming those there are, or saying what is broken."""
        folder = self.root / name / version
        if NAME.fullmatch(name) and VERSION.fullmatch(version):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                try:
                    return read_version(folder)
                except PermissionError as error:
                    raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
        known = ", ".join(found.label for found in self.list()) or "none"
        raise InputError(f"no model version {name}/{version} in {self.root} (there: {known})")

    def latest(self, name: str) -> Version | None:
        """The newest version of `name`, or None."""
        versions = self.list(name)
        return versions[-1] if versions else None

    def prune(self, keep: int, *, name: str | None = None, spare: Collection[str] = ()) -> Versions:
        """Remove all but the `keep` newest versions of each name, and what killed publishers left behind.

        Args:
            spare: labels ("lite/0003") that stay whatever their age, such as the one in use.

        Returns: the versions that are gone. Raises InputError if `keep` is less than 1, or the disk refuses.
        """
        if keep < 1:
            raise InputError(f"keep must be at least 1, not {keep}")
        removed: list[Version] = []
        versions = self.list(name)
        for line in sorted({version.name for version in versions}):
            old = [version for version in versions if version.name == line][:-keep]
            removed += [version for version in old if version.label not in spare]
            _remove_stale(self.root / line)
        for version in removed:
            aside = version.folder.with_name(f"{_TEMPORARY}{uuid4().hex}")
            try:
                version.folder.rename(aside)  # gone at once for those who list
                shutil.rmtree(aside)
            except FileNotFoundError:
                continue  # somebody else prunes
            except OSError as error:
                raise InputError(f"{version.folder}: cannot be removed ({error.strerror})") from error
        return removed


def _identity(weights: str | Path) -> Identity:
    from cnclip.model.encoder import find_weights
    from cnclip.model.fingerprint import identify
    from cnclip.model.weights import load_checkpoint

    loaded = load_checkpoint(find_weights(str(weights)))
    return identify(loaded.state_dict, loaded.config)


def _descent(
    name: str, identity: Identity, parent: Version | None, weights: str | Path | None
) -> dict[str, Any]:
    """The entries "parent" and "changed"."""
    if parent is not None:
        whole, image, text = parent.fingerprint, parent.image_fingerprint, parent.text_fingerprint
    elif weights is not None:
        known = _identity(weights)
        whole, image, text = known.whole, known.image, known.text
    else:
        return {"parent": None, "changed": "both"}
    differ = (image != identity.image, text != identity.text)
    changed = {(True, True): "both", (True, False): "image", (False, True): "text"}.get(differ, "none")
    version = parent.version if parent is not None and parent.name == name else None
    return {"parent": {"version": version, "fingerprint": whole}, "changed": changed}


@contextlib.contextmanager
def _temporary_folder(home: Path) -> Iterator[Path]:
    """A folder in `home` that is gone when the block ends, unless it was renamed."""
    folder = home / f"{_TEMPORARY}{uuid4().hex}"
    try:
        _make(home)
        _remove_stale(home)
        folder.mkdir()
        yield folder
    except WeightsError as error:
        raise WeightsError(f"{home}: not published: {error}") from error
    except OSError as error:
        raise InputError(f"{home}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(home: Path) -> None:
    """Make `home`, and its name durable in every folder above that is new."""
    missing = [path for path in (home, *home.parents) if not path.exists()]
    home.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _write(path: Path, content: str | bytes | Path) -> None:
    data = content.read_bytes() if isinstance(content, Path) else content
    with path.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def _place(folder: Path, home: Path, record: dict[str, Any]) -> Version:
    """Give the finished `folder` the next number that nobody else takes."""
    numbers = [int(path.name) for path in _folders(home) if VERSION.fullmatch(path.name)]
    number = max(numbers, default=0) + 1
    while True:
        record["version"] = f"{number:04d}"
        _write(folder / RECORD_NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        _sync(folder)
        target = home / record["version"]
        try:
            folder.rename(target)  # refused where another publisher was faster: a version is never empty
        except OSError as error:
            if error.errno not in _TAKEN or not target.exists():
                raise
            number += 1
            continue
        _sync(home)
        return read_version(target)


def _folders(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _remove_stale(home: Path) -> None:
    for path in _folders(home):
        with contextlib.suppress(OSError):  # another process removes it, or it stays for the next time
            if path.name.startswith(_TEMPORARY) and time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path)


def _sync(path: Path) -> None:
    """Put the names in the folder `path` on disk (POSIX only)."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
