"""Run the script of an issue draft here: `python docs/upstream/reproduce.py DRAFT --aiter SOURCE --target interpreter`.

Where AITER is installed and there is a GPU no script needs this: paste it, and run it.
"""

import argparse
import re
import sys
from pathlib import Path

from conformance import aiter_source, targets
from conformance.aiter_source import AiterNotFound, AiterNotLoadable, load_kernel
from conformance.targets import TargetError

GPU = 'DEVICE = "cuda"'
SCRIPT = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KERNEL = re.compile(r"^from (aiter\.[\w.]+) import (\w+)$", re.MULTILINE)


def script(draft: Path) -> str:
    """The one Python block of a draft. Raises ValueError where there is not one."""
    found = SCRIPT.findall(draft.read_text(encoding="utf-8"))
    if len(found) != 1:
        raise ValueError(f"{draft} has {len(found)} blocks of Python, not one")
    return found[0]


def main() -> int:
    """Exit code 2 where the draft cannot be run; else as its script ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("draft", type=Path)
    parser.add_argument("--aiter", required=True, metavar="SOURCE", help="a source tree, or a git repository and @REF")
    parser.add_argument("--target", default="interpreter", help="interpreter or gpu")
    options = parser.parse_args()
    try:
        code = script(options.draft)
        source, target = aiter_source.locate(options.aiter), targets.activate(options.target)
        for module, function in KERNEL.findall(code):
            load_kernel(source, target, (module,), function)
    except (OSError, ValueError, AiterNotFound, AiterNotLoadable, TargetError) as refused:
        print(f"reproduce: {refused}", file=sys.stderr)
        return 2
    code = code.replace(GPU, f'DEVICE = "{target.device}"')
    exec(compile(code, str(options.draft), "exec"), {"__name__": "__main__"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
