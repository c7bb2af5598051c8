"""The processes of a run: start them, share the batch among them, stop them together."""

import os
import signal
import time
import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from dcgan_dist.config import ComputeConfig
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.launcher import check_world_size, end_with_launcher
from dcgan_dist.distributed.node import this_node
from dcgan_dist.machine import check_compiler, cores, keep_freed_memory

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


@dataclass
class Runtime:
    """This process among the processes of a run."""

    accelerator: Accelerator
    stop: "StopRequest"
    device: torch.device = field(init=False)
    rank: int = field(init=False)
    world_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.accelerator.device
        self.rank = self.accelerator.process_index
        self.world_size = self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.rank == 0

    def rows(self, batch_size: int) -> tuple[int, int]:
        """Start and stop of this process's own contiguous rows of the global batch.

        Raises:
            ValueError: when the processes cannot share the batch evenly.
        """
        if batch_size % self.world_size:
            down = batch_size // self.world_size * self.world_size
            near = f"{down} or {down + self.world_size}" if down else f"{self.world_size}"
            raise ValueError(
                f"batch_size must be a multiple of the number of processes: {batch_size} / {self.world_size} = "
                f"{batch_size / self.world_size:g} images each; try {near}"
            )
        local = batch_size // self.world_size
        return self.rank * local, (self.rank + 1) * local

    def end(self) -> None:
        """Wait for all and close the process group: the last lines of every run that ends well."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given; for timing, never inside a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start(compute: ComputeConfig) -> Runtime:
    """The runtime of this process: process group, device, CPU threads, kernels' settings.

    Raises:
        ValueError: when the processes that run together are not those the launcher was asked for.
    """
    threads = compute.threads or max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else Accelerate sets another number, on several CPU nodes
    if not torch.cuda.is_available():  # a GPU's step takes none, and images that have moved there would stay here too
        keep_freed_memory()
    end_with_launcher()
    if compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=compute.deterministic)
    torch.backends.cudnn.benchmark = not compute.deterministic
    torch.backends.cuda.matmul.allow_tf32 = not compute.deterministic
    torch.backends.cudnn.allow_tf32 = not compute.deterministic

    if compute.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision fp16 needs a CUDA device; use bf16 on a CPU")
    if compute.compile:
        check_compiler(gpu=torch.cuda.is_available())
    # torch 2.14 deprecates the argument itself and still asks for False until it goes
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # weights of one channel: the same memory in either format, under two names
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    networks = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    # precision is our own autocast: Accelerate's fp16 scaler would be shared by both networks
    timeout = timedelta(seconds=compute.timeout)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        dynamo_backend="no",
        kwargs_handlers=[networks, InitProcessGroupKwargs(timeout=timeout)],
    )
    check_world_size(accelerator.num_processes)
    node = this_node()  # which knows whether the processes share their cores, or each is bound to its own
    torch.set_num_threads(compute.threads or node.cores)
    return Runtime(accelerator, StopRequest(timeout))


class StopRequest:
    """A wish to stop, from a signal or from this program, that all ranks agree on at the same step.

    Handlers set a flag. Every step or every second, whichever is longer, the ranks compare flags over a gloo
    group of their own, which never touches the device. A second Ctrl-C stops at once, a third without a word.
    """

    def __init__(self, timeout: timedelta) -> None:
        self.received: str | None = None
        """What asked this process first: the name of a signal, or the words of ``ask``."""
        self.at_once = False
        """Whether a second Ctrl-C came; Python may turn the KeyboardInterrupt it raised into another error."""
        self._interrupts = 0  # Ctrl-C received
        self._handlers: dict[signal.Signals, Any] = {}  # of before
        self._group: dist.ProcessGroup | None = None
        if collectives.world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timeout)  # type: ignore[assignment]
        self._last_step: int | None = None
        self._last_time = 0.0
        self._next_check = 0

    def listen(self) -> None:
        """Take over the signals that ask a run to stop."""
        for number in STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, self._receive)

    def unlisten(self) -> None:
        """Give the signals back, when the run is over."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def ask(self, reason: str) -> None:
        """Stop all ranks, as a signal would."""
        self.received = self.received or reason

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)
        if number != signal.SIGINT:
            return
        self._interrupts += 1
        if self._interrupts == 2:
            self.at_once = True
            raise KeyboardInterrupt
        if self._interrupts > 2:
            os._exit(1)

    def rewound(self) -> None:
        """The run goes on from an earlier step: compare again at the next one."""
        self._last_step, self._next_check = None, 0

    def agreed(self, step: int) -> bool:
        """Whether any rank was asked to stop; the same answer on all ranks. Call it after every step."""
        if self._group is None:
            return self.received is not None
        if step < self._next_check:
            return False
        now = time.monotonic()
        pace = 0.0 if self._last_step is None else (now - self._last_time) / (step - self._last_step)  # seconds a step
        state = torch.tensor([float(self.received is not None), pace], dtype=torch.float64)
        dist.all_reduce(state, dist.ReduceOp.MAX, group=self._group)
        stop, pace = state.tolist()
        self._last_step, self._last_time = step, now
        self._next_check = step + max(1, int(1 / pace) if pace > 0 else 1)
        return bool(stop > 0)
