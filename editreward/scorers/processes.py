"""The processes of `accelerate launch`, or the only one."""

import os
from datetime import timedelta
from typing import TypeVar, cast

# The others wait while one reads and checks the data, which may take hours; a process that dies ends all of them.
TIMEOUT = timedelta(days=7)


T = TypeVar("T")


class Processes:
    """Who this process is, and what it tells the others.

    Attributes:
        index, count: number of this process, from 0, and of all.
    """

    def __init__(self) -> None:
        self.index, self.count = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env

            # Accelerate makes no group of processes on CPUs unless it is told that they are meant.
            cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
            self.state = PartialState(cpu=cpu, timeout=TIMEOUT)
            self.index, self.count = self.state.process_index, self.state.num_processes

    @property
    def is_main(self) -> bool:
        return self.index == 0

    @property
    def device(self) -> str | None:
        """Where this process is to run its model; None leaves the choice to the model's loader."""
        return None if self.count == 1 else str(self.state.device)

    def from_main(self, value: T | None) -> T:
        """The value that the main process passed, in every process."""
        if self.count == 1:
            return cast(T, value)
        from accelerate.utils import broadcast_object_list

        shared: T = broadcast_object_list([value])[0]
        return shared

    def together(self, values: dict[str, T]) -> dict[str, T]:
        """The dictionaries of all processes as one."""
        if self.count == 1:
            return values
        from accelerate.utils import gather_object

        return {key: value for part in gather_object([values]) for key, value in part.items()}
