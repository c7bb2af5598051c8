"""The trainer with a fault: ``python -m tests.distributed.failing HOW RANK STEP FLAGS...``."""

import os
import signal
import sys
import time

from torch import Tensor

from dcgan_dist import train
from dcgan_dist.loop import Training


def main() -> None:
    how, rank, step, *flags = sys.argv[1:]
    update = Training.update

    def fail(training: Training) -> dict[str, Tensor]:
        if os.environ["RANK"] == rank and training.step == int(step):
            print(f"FAULT {time.time()}", flush=True)
            if how == "raise":
                raise KeyError("a bug of ours")
            if how == "hang":
                time.sleep(1000)
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[how])
        return update(training)

    Training.update = fail  # type: ignore[method-assign,assignment]
    train.main(flags)


if __name__ == "__main__":
    main()
