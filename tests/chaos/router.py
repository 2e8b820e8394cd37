"""`python -m tests.chaos.router`: a whole router process whose queue never puts adapters in quarantine.

The router has no such setting: nobody should want it. Here workers are killed by somebody else, and no
adapter is to blame.
"""

from functools import partial

import router.app
from router.__main__ import main
from shared.queue.terms import QueueSettings
from tests.chaos.plan import NEVER

if __name__ == "__main__":
    router.app.QueueSettings = partial(QueueSettings, max_adapter_crashes=NEVER)
    raise SystemExit(main())
