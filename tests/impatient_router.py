"""`python -m tests.impatient_router`: a whole router process that counts as gone after a second of silence.

The router has no such setting: what is right for one is right for all. Here one has to be silent for longer,
and the test does not want to.
"""

from functools import partial

import router.app
from router.__main__ import main
from shared.queue.terms import QueueSettings

if __name__ == "__main__":
    router.app.QueueSettings = partial(QueueSettings, router_ttl=1.0)
    raise SystemExit(main())
