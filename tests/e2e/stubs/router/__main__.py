import os

from stub_part import run

run("router", int(os.environ["WARMBASE_PORT"]))
