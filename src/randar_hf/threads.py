"""Threads of torch, and the cores that are idle for them."""

import psutil
import torch
from transformers.utils import logging


logger = logging.get_logger(__name__)


def warn_of_busy_cores(device: str):
    """Warn if torch is about to compute on the CPU with more threads than there are idle cores; takes 0.1 s."""
    threads, cores = torch.get_num_threads(), psutil.cpu_count()
    if torch.device(device).type != "cpu" or threads == 1:
        return
    idle = cores * (1 - psutil.cpu_percent(interval=0.1) / 100)
    if threads > idle + 0.5:
        logger.warning(
            f"torch computes with {threads} threads, while {idle:.1f} of {cores} cores are idle: threads on busy "
            "cores wait for one another, for minutes at times. Set the environment variable OMP_NUM_THREADS to the "
            "number of idle cores, 1 in doubt."
        )
