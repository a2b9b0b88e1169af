"""The online worker: learns from what people search for and what they say, in guarded rounds, and publishes
each round that helped as a version of the model.

    listen → choose → fetch, judge, step, measure (`OnlineRound`) → publish or take back → remember

Killed at any point it goes on where it was: what it was told is stored at once, what it learnt is final with
the version (see `worker_state`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cnclip.data.dataset import PairDataset
from cnclip.errors import InputError
from cnclip.model.device import pick_device
from cnclip.online.learner import online_settings
from cnclip.online.plan import distinct
from cnclip.online.replay import Memory
from cnclip.online.report import write_online_report
from cnclip.online.round import SKIPPED, Outcome
from cnclip.online.source import ImageSource
from cnclip.online.standalone import Pupil
from cnclip.online.verdict import Balance
from cnclip.online.versions import ModelVersions, Version
from cnclip.online.worker_records import WorkerBook
from cnclip.online.worker_source import LASTING, CycleSource, look, same_look
from cnclip.online.worker_state import Done, Opinion, Said, WorkerState, read_done, write_done
from cnclip.text import normalize
from cnclip.training.config import TrainConfig
from cnclip.training.distributed import World

logger = logging.getLogger(__name__)

DONE_FILE = "worker.json"  # in a version: the round that made it
AGAIN_S = 24 * 3600.0  # after which a query for which there is no picture is asked for again
_REPORTS = ("online_report.json", "online_report.html")
_QUERIES = "queries"  # the bookmark of the query log


class Inbox(Protocol):
    """What people said and searched for."""

    def opinions(self, since: int) -> Iterable[Opinion]:
        """Feedback with ids larger than `since`, in order."""
        ...

    def logged(self, since: int) -> Iterable[tuple[int, str]]:
        """(id, text) of searches with ids larger than `since`, in order."""
        ...

    def queries(self) -> Iterable[str]:
        """Queries from elsewhere, each as often as it is asked anew."""
        ...

    def picture_of(self, said: Said) -> bytes | None:
        """The picture that an item had when it was judged; None if it is gone."""
        ...


@dataclass(frozen=True)
class WorkerSettings:
    """config: the base model, the data, and how steps are taken. name: of the line of versions. home: folder
    for what the worker remembers. max_queries: most queries of one round."""

    config: TrainConfig
    name: str
    home: Path
    max_queries: int = 64


@dataclass(frozen=True)
class Cycle:
    """What a cycle came to. verdict: "kept", "rolled back" or "skipped"; why: one sentence. version: what was
    published. record: of the round."""

    verdict: str
    why: str
    version: Version | None
    record: dict[str, Any]


class Worker:
    """Takes one cycle at a time.

    Args:
        open_source: opens the place that fresh pictures come from, for one cycle; None: feedback is all.
        parent: the version to go on from, asked before each cycle; None as its answer: the base model.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        state: WorkerState,
        versions: ModelVersions,
        inbox: Inbox,
        open_source: Callable[[], AbstractContextManager[ImageSource]] | None,
        parent: Callable[[], Version | None],
    ) -> None:
        self._settings, self._state, self._versions, self._inbox = settings, state, versions, inbox
        self._open_source, self._parent = open_source, parent
        self._rounds = replace(online_settings(settings.config), pictures=1, batch_size=settings.max_queries)
        self._book = WorkerBook(settings.home)
        self._pupil: tuple[str, Pupil] | None = None  # and the label of its weights
        self._heard_to = 0  # from the beginning: a journal may have been replaced
        self._take_up()

    def cycle(self) -> Cycle | None:
        """Listen, and learn from what there is; None if there is nothing to learn from.

        Raises: InputError for data, models and folders that cannot be used.
        """
        self._listen()
        state, most = self._state, self._settings.max_queries
        praised = state.praise()
        wanted = state.due(most, time.time()) if self._open_source is not None else []
        texts = distinct([*(said.text for said in praised), *(one.text for one in wanted)])[:most]
        if not texts:
            return None
        chosen = {normalize(text) for text in texts}
        praised = [said for said in praised if said.query in chosen]
        asked = {key: one for one in wanted if (key := normalize(one.text)) in chosen}
        logger.info("a round on %d queries, %d pictures that people praised", len(texts), len(praised))
        dislikes, number, parent = state.dislikes(), state.round, self._parent()
        pupil = self._pupil_of(parent)
        with contextlib.ExitStack() as stack:
            inner = stack.enter_context(self._open_source()) if asked and self._open_source else None
            source = CycleSource(inner, asked, praised, dislikes, self._inbox.picture_of)
            used = self._used(number, dislikes)
            where = {"step": number + 1, "epoch": 0}
            outcome = pupil.take(number, texts, source, where=where, used=used)
        return self._conclude(outcome, source, parent, pupil)

    def _listen(self) -> None:
        """Remember what is new, before anything is made of it."""
        heard = self._state.hear(self._inbox.opinions(self._heard_to))
        self._heard_to = max(self._heard_to, heard)
        logged = list(self._inbox.logged(self._state.bookmark(_QUERIES)))
        if logged:
            self._state.want((text for _, text in logged), bookmark=(_QUERIES, logged[-1][0]))
        self._state.want(self._inbox.queries())

    def _pupil_of(self, parent: Version | None) -> Pupil:
        """The model to go on with: the one in memory, if that is what was asked for."""
        label = "" if parent is None else parent.label
        if self._pupil is None or self._pupil[0] != label:
            config, balance = self._settings.config, Balance()
            if parent is not None:
                config = config.model_copy(update={"model": str(parent.weights)})
                balance = Balance(self._done_of(parent)[1])
            logger.info("going on from %s", label or config.model)
            pace, self._pupil = self._state.pace, None  # two models at a time may be too many
            self._pupil = label, Pupil(config, self._rounds, self._memory, self._world, balance, pace)
        return self._pupil[1]

    @cached_property
    def _memory(self) -> Memory:
        datasets = [PairDataset(folder) for folder in self._settings.config.train_data]
        return Memory(datasets, self._rounds.canary, self._rounds.seed)

    @cached_property
    def _world(self) -> World:
        return World(device=pick_device(self._settings.config.device))

    def _used(self, number: int, dislikes: Iterable[Said]) -> dict[int, str]:
        """Pictures that taught a query before. One that people rejected for it may teach another one."""
        used = self._book.used_before(number)
        taught, rejected = {normalize(text) for text in used.values()}, dict[str, list[int]]()
        for said in dislikes:
            data = self._inbox.picture_of(said) if said.query in taught else None
            if data is not None and (seen := look(data)) is not None:
                rejected.setdefault(said.query, []).append(seen)
        return {
            own: text
            for own, text in used.items()
            if not any(same_look(own, other) for other in rejected.get(normalize(text), []))
        }

    def _conclude(self, outcome: Outcome, source: CycleSource, parent: Version | None, pupil: Pupil) -> Cycle:
        """Record, publish what helped, and only then remember that it was learnt."""
        record, version = outcome.record, None
        if outcome.judged:
            self._book.keep_fresh(outcome.judged)
            if pupil.split is not None:
                self._book.keep_gallery(pupil.split, record["movers"])
            self._book.write(record)
            self._book.trim()
            write_online_report(self._settings.home)
        done = replace(self._done(outcome, source), pace=pupil.pace)
        if outcome.kept:
            version = self._publish(done, record, parent, pupil)
            done = replace(done, verdict=version.label)
            self._pupil = version.label, pupil
        self._state.commit(done)
        return Cycle(record["decision"], record["why"], version, record)

    def _publish(self, done: Done, record: dict[str, Any], parent: Version | None, pupil: Pupil) -> Version:
        home = self._settings.home
        reports = {name: home / name for name in _REPORTS if (home / name).is_file()}
        return self._versions.publish(
            self._settings.name,
            pupil.model,
            parent=parent,
            parent_weights=None if parent is not None else self._settings.config.model,
            summary=summary_of(record),
            files={
                **reports,
                "round.json": json.dumps(record, ensure_ascii=False, indent=1),
                DONE_FILE: write_done(done, pupil.balance.totals),
            },
        )

    def _done(self, outcome: Outcome, source: CycleSource) -> Done:
        """What is done with: pictures that taught, or were refused. Those that only lacked company, as too
        few pairs make no step, are for the next round."""
        decision, now = str(outcome.record["decision"]), time.time()
        reasons = {}
        for one in outcome.judged:
            picture = one.candidate.picture
            reasons[normalize(picture.query), picture.number, picture.origin.get("item", "")] = one.reason
        done_with = {key for key, reason in reasons.items() if reason or decision != SKIPPED}
        opinions = [
            (said.id, said.time)
            for said in source.praised
            if (said.query, 0, said.item_id) in done_with or (said.id, said.time) in source.withheld
        ]
        queries = {
            key: (source.wanted[key].number, now + AGAIN_S if reason in LASTING else now)
            for key, reason in source.missed.items()
        }
        for key, asked in source.wanted.items():
            if (key, asked.number, "") in done_with or (key, asked.number) in source.rejected:
                queries[key] = (asked.number + 1, now)
        return Done(int(outcome.record["round"]), decision, opinions, queries)

    def _take_up(self) -> None:
        """Note rounds that were published, but not remembered: the worker was killed in between."""
        for version in self._versions.list(self._settings.name):
            if version.file(DONE_FILE) is None:
                continue
            done, _ = self._done_of(version)
            if done.round >= self._state.round:
                logger.warning(
                    "%s was published by a worker that could not note it; noted now", version.label
                )
                self._state.commit(replace(done, verdict=version.label))

    def _done_of(self, version: Version) -> tuple[Done, dict[str, float]]:
        """The round that made a version, and what the rounds up to it have cost. One that no worker made has
        cost nothing."""
        path = version.file(DONE_FILE)
        if path is None:
            return Done(-1, version.label), {}
        try:
            return read_done(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from error


def summary_of(record: dict[str, Any]) -> dict[str, float]:
    """A few numbers of a round, for people."""
    summary: dict[str, float] = {"pairs": sum(step["pairs"] for step in record["steps"])}
    for group in ("taught", "others", "canary"):
        change = record[group]
        if change is not None and change["after"] is not None:
            name = record["metric"]
            summary[f"{group} {name} before"] = change["before"][name]
            summary[f"{group} {name} after"] = change["after"][name]
    return summary
