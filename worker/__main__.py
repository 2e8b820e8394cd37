"""`python -m worker`: read the configuration, run, end with an exit code that says why."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from shared.config import ConfigError, worker_config
from shared.logs import configure_logging, end_process
from worker.app import WorkerApp
from worker.assembly import load_engine
from worker.exit_codes import ExitCode

SWITCH_INTERVAL = 1e-4
"""Seconds for which a thread keeps Python's global lock while another one waits for it. PyTorch gives it up
in each operation and has to get it back: at Python's 5 ms, a thread that only runs Python makes each of the
thousands of operations of an image wait for that long (`tests/bench/switch_interval.py`)."""

logger = logging.getLogger(__name__)

VARIABLES = """\
environment variables:
  WARMBASE_BASE               base model to serve, as organisation/name (required)
  WARMBASE_DENOISER_FILE      GGUF file in place of the base's denoiser, as organisation/name/file
                              or organisation/name@revision/file;
                              its repository is then what is served
  WARMBASE_COPY_OF            model that it is a quantised copy of, if its card does not say so
  REDIS_URL                   Redis >= 7.0 or Valkey >= 7.2       [redis://127.0.0.1:6379/0]
  HF_ENDPOINT                 address of the Hub                  [https://huggingface.co]
  HF_TOKEN                    the deployment's own token, for bases that need one
  WARMBASE_SECRET             opens callers' tokens; the same as the router's
  WARMBASE_RESULTS_URL        where images wait, as the router's  [REDIS_URL]
  WARMBASE_RESULTS_BYTES      what all of them may have           [2 GiB]
  WARMBASE_DEVICE             a torch device, or auto             [auto]
  WARMBASE_DTYPE              float32, float16, bfloat16 or auto  [auto]
  WARMBASE_COMPILE            on: compile the denoiser at start   [off]
  WARMBASE_HOST               where the probes listen             [127.0.0.1]
  WARMBASE_PROBE_PORT         their port; 0 takes a free one      [0]
  WARMBASE_MAX_ADAPTER_BYTES  larger weight files are refused     [4 GiB]
  WARMBASE_DISK_FOLDER        where downloaded adapters are kept  [$HF_HOME/warmbase-adapters]
  WARMBASE_DISK_BUDGET        bytes of adapters kept there        [32 GiB]
  WARMBASE_RAM_BUDGET         bytes of adapters kept in RAM       [4 GiB]
  WARMBASE_GPU_BUDGET         bytes of them kept on the GPU too   [2 GiB]
  WARMBASE_PINNED             repositories whose adapters leave last, once they were used
  WARMBASE_DRAIN              seconds a running job gets to end   [20]
  WARMBASE_STALL              seconds without a denoising step
                              after which the process gives up    [120]
  WARMBASE_LOG_LEVEL          debug, info, warning or error       [info]

exit codes: 0 stopped as asked, 1 unforeseen, 2 bad configuration, 3 the base could not be loaded,
4 the base was damaged, 5 a generation hung, 6 the heartbeat failed.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a worker and end the process."""
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Keep one base model warm and draw the images of its queue.",
        epilog=VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        config = worker_config()
    except ConfigError as error:
        parser.error(str(error))
    configure_logging(config.common.log_level)
    end_with(WorkerApp(config, partial(load_engine, config)))


def end_with(app: WorkerApp[Any]) -> NoReturn:
    """Run `app` and end the process with its exit code."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        code = asyncio.run(app.run())
    except Exception:
        logger.exception("the worker failed", extra={"action": "worker_failed"})
        code = ExitCode.UNFORESEEN
    end_process(code)


if __name__ == "__main__":
    main()
