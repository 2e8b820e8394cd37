import os

from stub_part import run

run("worker", int(os.environ["WARMBASE_PROBE_PORT"]))
