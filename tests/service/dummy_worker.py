"""In the place of `service.reembed_worker`: the same with the dummy. `DUMMY_EMBED_S` slows it down."""

from __future__ import annotations

import os
import sys
import time

from service import reembed_worker
from tests.service.dummy import Pixels, Vectors
from tests.service.dummy_models import TurnedEncoder, load


class SlowEncoder(TurnedEncoder):
    def encode_pixels(self, pixels: Pixels) -> Vectors:
        time.sleep(float(os.environ.get("DUMMY_EMBED_S", "0")))
        return super().encode_pixels(pixels)


def load_slow(weights: str) -> TurnedEncoder:
    encoder = load(weights)
    return SlowEncoder(encoder.image, encoder.text, encoder.flaw, encoder.side)


if __name__ == "__main__":
    sys.exit(reembed_worker.main(sys.argv[1:], load_slow))
