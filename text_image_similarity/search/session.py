"""The open resources of a catalogue: its ledger, the models of its generations, and the stores of their vectors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from math import inf
from threading import RLock

from ..config import Config
from ..encoders import Encoder
from ..errors import DatabaseError, ModelNameError, UsageError
from ..pipeline import Scorer
from .database import ModelIdentity
from .ledger import Generation, Generations, Ledger, intact
from .stores import Store
from .time_limit import time_limit

logger = logging.getLogger("text_image_similarity")

_POLLED_S = 0.1

# Function that opens the store for the number of a generation and the length of its vectors.
OpenStore = Callable[[int, int], Store]


class Session:
    """The open resources of a catalogue, each opened on first use. Safe to share between threads.

    Args:
        ledger: The products.
        config: Settings for loading models and fetching images; each generation has its own model.
        open_store: Function that opens a generation's store.
        encoder: A loaded encoder for the live generation; None loads its model.
        identity: Identity of that encoder's model, if already known.

    Attributes:
        live_model: New place of the live generation's model, if it has moved.
        store_kind: Kind of the stores, for descriptions.
    """

    def __init__(
        self,
        ledger: Ledger,
        config: Config,
        open_store: OpenStore,
        *,
        encoder: Encoder | None = None,
        identity: ModelIdentity | None = None,
    ) -> None:
        self.ledger, self.config = ledger, config
        self.generations = Generations(ledger.database)
        self._open_store, self._given, self._identity = open_store, encoder, identity
        self.live_model: str | None = None
        self.store_kind = ""
        self._lived = self.generations.live().number  # generation of `encoder` and `live_model`
        self._opening = RLock()
        self._following = RLock()
        self._scorers: dict[int, Scorer] = {}
        self._stores: dict[int, Store] = {}
        self._ended = False  # whether `end_scorers` has been called

    def scorer(self, generation: Generation) -> Scorer:
        """Return the scorer for a generation.

        Raises:
            ModelError: The model cannot be loaded.
            DatabaseError: The model is not the one that made the generation's vectors.
            UsageError: `end_scorers` has been called.
        """
        with self._opening:
            if self._ended:
                raise UsageError("the catalogue is being closed")
            if generation.number not in self._scorers:
                made = self._make_scorer(generation)
                self._scorers[generation.number] = made
            return self._scorers[generation.number]

    def lend(self, generation: Generation, encoder: Encoder, identity: ModelIdentity | None = None) -> None:
        """Use a loaded encoder for a generation that has no open model yet; without `identity`, probe the encoder."""
        with self._opening:
            if generation.number not in self._scorers:
                self._scorers[generation.number] = self._make_scorer(generation, encoder, identity)

    def store(self, generation: Generation) -> Store:
        """Return a generation's store after bringing it up to date with the ledger."""
        store = self.opened(generation)
        self.follow(generation, store)
        return store

    def follow(self, generation: Generation, store: Store, *, wait: bool = False) -> None:
        """Bring a store up to date with the ledger.

        Args:
            generation: The generation.
            store: Store of the generation.
            wait: Whether to wait while another process or thread updates the store. If False, a shared store that is
                being updated is left as it is.
        """
        if store.version == self.ledger.version:
            return
        if not self._following.acquire(blocking=wait or not store.shared):
            return
        try:
            with self.ledger.database.exclusive("follow", wait=wait) if store.shared else nullcontext(True) as ours:
                if ours:
                    self._catch_up(generation, store)
        finally:
            self._following.release()

    def _catch_up(self, generation: Generation, store: Store) -> None:
        # All queries need this work, which would have to start from scratch if it were interrupted.
        with time_limit(inf), intact(self.ledger.database):
            target = self.ledger.version
            if store.version > target:  # the ledger has been restored from a backup
                store.clear()
            while store.version < target:
                if store.version < self.ledger.pruned:  # the ledger no longer records all deletions since then
                    store.clear()
                for changes in self.ledger.changes(generation.number, store.version):
                    store.apply(changes)

    def follow_all(self) -> None:
        """Bring stores that are shared with other processes up to date, and wait until they are."""
        for generation in self.generations.all():
            if (store := self.opened(generation)).shared:
                self.follow(generation, store, wait=True)

    def optimize(self) -> None:
        """Reclaim space in the ledger, and have the stores build their indexes."""
        database = self.ledger.database
        while True:
            # In PostgreSQL, a process that waits for a lock keeps its holder from building an index.
            with database.exclusive("optimize", wait=False) as ours:
                if ours:
                    self.ledger.prune()
                    database.optimize()
                    for generation in self.generations.all():
                        if (store := self.opened(generation)).shared:
                            self.follow(generation, store)
                            store.optimize(self._alone)
                    return
            time.sleep(_POLLED_S)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._following, self.ledger.database.exclusive("follow", wait=True):
            yield

    def opened(self, generation: Generation) -> Store:
        """Return a generation's store without bringing it up to date."""
        with self._opening:
            if generation.number not in self._stores:
                self._stores[generation.number] = self._open_store(generation.number, generation.identity.embed_dim)
            return self._stores[generation.number]

    def _make_scorer(
        self, generation: Generation, encoder: Encoder | None = None, found: ModelIdentity | None = None
    ) -> Scorer:
        identity = generation.identity
        model, revision = identity.model, identity.revision
        named = None
        if encoder is None and generation.number == self._lived:
            encoder, found, named = self._given, self._identity, self.live_model
        if named is not None:
            model, revision = named, self.config.revision
        elif encoder is None:
            identity.check_place(self.config.model)
        config = replace(self.config, model=model, revision=revision)
        try:
            scorer = Scorer(config, encoder=encoder, known=partial(self.ledger.known, generation.number))
        except ModelNameError as exc:
            raise ModelNameError(
                f"the catalogue's model was not found ({exc}); if it has moved, run: "
                "text-image-similarity catalog set-model CATALOG MODEL"
            ) from exc
        found = found or ModelIdentity.of(scorer.encoder)
        if not identity.same_as(found):
            scorer.close()
            raise DatabaseError(
                f"the catalogue was created with {identity}, but this model is {found}: their vectors cannot be "
                "compared; open the catalogue with its own model, or run: "
                "text-image-similarity catalog reindex CATALOG --model ..."
            )
        return scorer

    def drop(self, generation: Generation) -> None:
        """Remove a generation with its store; a damaged store is left in place, with a warning."""
        self.generations.drop([generation.number])
        try:
            self.opened(generation).drop()
        except DatabaseError as problem:
            logger.warning("the vectors of generation %s could not be removed: %s", generation.number, problem)
        with self._opening:
            self._stores.pop(generation.number, None)
            if (scorer := self._scorers.pop(generation.number, None)) is not None:
                scorer.close()

    @property
    def held(self) -> frozenset[int]:
        """The numbers of the generations with an open model or store."""
        with self._opening:
            return frozenset((*self._stores, *self._scorers))

    def forget(self, number: int) -> None:
        """Close the model and store of a generation."""
        with self._opening:
            open_ = self._stores.pop(number, None), self._scorers.pop(number, None)
        for part in open_:
            if part is not None:
                part.close()

    def drop_others(self) -> list[int]:
        """Remove all generations except the one in use, and return their numbers."""
        others = [generation for generation in self.generations.all() if generation.state != "live"]
        for generation in others:
            self.drop(generation)
        return [generation.number for generation in others]

    def delete(self, ids: Sequence[str]) -> int:
        """Remove products from the ledger and the stores, and return how many existed."""
        self.follow_all()  # before writing, so that a ledger restored from a backup is still behind its stores
        deleted = self.ledger.delete(ids)
        self.follow_all()
        return deleted

    def end_scorers(self) -> None:
        """Close the scorers for good: their current work fails with a `UsageError`."""
        with self._opening:
            self._ended = True
            scorers = list(self._scorers.values())
        for scorer in scorers:
            scorer.close()

    def close(self) -> None:
        """Close the models, the stores and the ledger's database."""
        with self._opening:
            for scorer in self._scorers.values():
                scorer.close()
            for store in self._stores.values():
                store.close()
            self._scorers.clear()
            self._stores.clear()
        self.ledger.database.close()
