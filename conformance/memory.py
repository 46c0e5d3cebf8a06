"""Whether a device has the memory that a case's inputs take: asked before they go there, and answered in numbers."""

import torch


class NotEnoughMemory(MemoryError):
    """A device has less memory than is needed; the message is the whole story."""


def refuse_too_much(needed: int, device: torch.device) -> None:
    """Raises NotEnoughMemory where a GPU has not `needed` bytes free, or kept by torch to be given out again."""
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if needed > free:
        raise NotEnoughMemory(f"needs {shown(needed)}, the device has {shown(free)} free of {shown(total)}")


def shown(size: int) -> str:
    """`15.9 GiB`; `192 GiB`, where that is all there is to say; `320 MiB` or `12 KiB`, where it is less than one."""
    if size < 2**20:
        return f"{-(-size // 2**10)} KiB"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f}".removesuffix(".0") + " GiB"
