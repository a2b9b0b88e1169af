"""What a round is going to do: which of the pictures teach, in which steps, beside which training pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from cnclip.errors import InputError
from cnclip.evaluation.ranks import FloatArray
from cnclip.image import decode_image
from cnclip.online.batch import Meanings
from cnclip.online.gate import Bearings, Candidate, Guarded, Judged, judge
from cnclip.online.looks import MIN_SIDE, difference_hash
from cnclip.online.replay import Memory, ReplayRow
from cnclip.online.settings import OnlineSettings
from cnclip.online.source import FreshPicture
from cnclip.text import normalize
from cnclip.training.distributed import World
from cnclip.training.validation import SharedEncoder


class Fresh(NamedTuple):
    """The pairs of one step: fresh ones, and training pairs that may be replayed with them."""

    pictures: list[FreshPicture]
    replayed: list[ReplayRow]


@dataclass(frozen=True)
class Plan:
    """judged: every picture that was offered. batches: of each step. skipped: steps with too few pairs.
    taught: the queries that have a picture in a step, normalised."""

    judged: list[Judged]
    batches: list[Fresh]
    skipped: int
    meanings: Meanings
    taught: frozenset[str]


@dataclass(frozen=True)
class Planner:
    """Judges pictures with the model as it is now. Every process makes the same calls.

    guarded: pictures that must not teach. used: hash of each picture that taught before → its query.
    """

    encoder: SharedEncoder
    world: World
    memory: Memory
    settings: OnlineSettings
    guarded: Guarded
    used: Mapping[int, str] = field(default_factory=dict)

    def plan(self, number: int, queries: Sequence[str], pictures: Sequence[FreshPicture]) -> Plan:
        """For round `number`. queries: texts, each once. pictures: of some of them."""
        settings = self.settings
        replayed = [
            self.memory.draw(settings.replay + settings.batch_size, [settings.seed, number, batch])
            for batch in range(-(-len(queries) // settings.batch_size))
        ]
        sample = self.memory.sample()
        texts = np.unique(np.concatenate([sample, *(row.texts for rows in replayed for row in rows)]))
        query_vectors = self.encoder.encode_texts(list(queries))
        text_vectors = self.encoder.encode_texts([self.memory.texts[text] for text in texts])
        meanings = Meanings.of(queries, query_vectors, texts, text_vectors, self.memory)
        candidates = [Candidate.of(picture) for picture in pictures]
        columns = meanings.columns[sample]
        bearings = Bearings(
            query_vectors,
            np.concatenate([text_vectors[columns], query_vectors]),
            np.concatenate([meanings.near[:, columns], meanings.alike], 1),
            meanings.alike,
        )
        judged = self._judged(candidates, bearings, meanings)
        return self._divided(queries, judged, replayed, meanings)

    def _judged(
        self, candidates: Sequence[Candidate], bearings: Bearings, meanings: Meanings
    ) -> list[Judged]:
        """The same on every process."""
        if not self.settings.gate:
            return [Judged(candidate, candidate.problem, float("nan")) for candidate in candidates]
        asked = [meanings.rows[normalize(candidate.picture.query)] for candidate in candidates]
        used = {h: meanings.rows.get(normalize(text), -1) for h, text in self.used.items()}
        judged = judge(candidates, self._vectors(candidates), asked, bearings, self.guarded, used)
        reasons = self.world.share([one.reason for one in judged])
        return [one._replace(reason=reason) for one, reason in zip(judged, reasons, strict=True)]

    def _vectors(self, candidates: Sequence[Candidate]) -> FloatArray:
        """float32 (n, d); zeros where a picture has a problem."""
        vectors = np.zeros((len(candidates), self.encoder.dim), np.float32)
        good = [row for row, candidate in enumerate(candidates) if not candidate.problem]
        if good:
            vectors[good] = self.encoder.encode_images([candidates[row].picture.data for row in good])
        return vectors

    def _divided(
        self,
        queries: Sequence[str],
        judged: list[Judged],
        replayed: Sequence[list[ReplayRow]],
        meanings: Meanings,
    ) -> Plan:
        """One step for each batch of queries that has enough pairs."""
        good: dict[str, list[FreshPicture]] = {}
        for one in judged:
            if not one.reason:
                good.setdefault(one.candidate.picture.query, []).append(one.candidate.picture)
        batches, skipped = [], 0
        for number, start in enumerate(range(0, len(queries), self.settings.batch_size)):
            group = queries[start : start + self.settings.batch_size]
            pictures = [picture for query in group for picture in good.get(query, [])]
            if len(pictures) >= self.settings.min_pairs:
                batches.append(Fresh(pictures, replayed[number]))
            elif pictures:
                skipped += 1
        taught = frozenset(normalize(picture.query) for batch in batches for picture in batch.pictures)
        return Plan(judged, batches, skipped, meanings, taught)


def distinct(texts: Sequence[str]) -> list[str]:
    """Texts that are different texts to the model, in their order."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(normalize(text), text)
    return list(found.values())


class Gallery(Protocol):
    """Pictures by id."""

    @property
    def image_ids(self) -> list[str]: ...
    def image_bytes(self, image_id: str) -> bytes: ...


def gallery_hashes(split: Gallery) -> list[int]:
    """Hashes of the pictures of a split that can be read."""
    hashes = []
    for image_id in split.image_ids:
        try:
            image = decode_image(split.image_bytes(image_id), min_side=MIN_SIDE)
        except InputError:  # it is not in the gallery that is searched, either
            continue
        hashes.append(difference_hash(image))
    return hashes
