"""Loading AITER's kernels: in every layout, beside nothing else of AITER, and with a sentence where it fails."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch

from conformance.aiter_source import AiterNotLoadable, AiterSource, load_kernel, locate
from conformance.targets import Target
from tests.harness.small_aiter import FUNCTION, KERNEL, found, write_tree

MODULES = ("aiter.ops.triton.attention.mha_v3", "aiter.ops.triton.mha_v3")
INTERPRETER = Target("interpreter", "gfx942", torch.device("cpu"))


@pytest.fixture
def no_aiter_yet() -> Iterator[None]:
    """A process that has imported no AITER, now and afterwards."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "aiter"]:
            del sys.modules[name]

    forget()
    yield
    forget()


@pytest.mark.usefixtures("no_aiter_yet")
class TestLoading:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Callable[..., AiterSource]:
        def make(
            body: str = f"def {FUNCTION}(): return 'one'\n", kernel: str = KERNEL, name: str = "tree"
        ) -> AiterSource:
            source = found(write_tree(tmp_path / name, kernel, body))
            return replace(source, version="0.1.20")

        return make

    @pytest.mark.parametrize("kernel", [KERNEL, "aiter/ops/triton/mha_v3.py", "aiter/ops/triton/mha_v3/__init__.py"])
    def test_a_kernel_is_found_in_either_layout(self, tree, kernel: str) -> None:
        assert load_kernel(tree(kernel=kernel), INTERPRETER, MODULES, FUNCTION)() == "one"

    def test_the_package_itself_stays_unimported(self, tree) -> None:
        source = tree()
        (source.root / "aiter" / "__init__.py").write_text("raise RuntimeError('needs a ROCm build')\n")
        assert load_kernel(source, INTERPRETER, MODULES, FUNCTION)() == "one"
        assert load_kernel(source, INTERPRETER, MODULES, FUNCTION)() == "one"

    def test_an_installed_aiter_on_an_amd_gpu_is_imported_as_a_whole(self, tree, monkeypatch) -> None:
        monkeypatch.setattr(torch.version, "hip", "7.0")
        monkeypatch.syspath_prepend(str(tree().root))
        source = replace(tree(), origin="installed")
        (source.root / "aiter" / "__init__.py").write_text("whole = True\n")
        load_kernel(source, Target("gpu", "gfx942", torch.device("cuda")), MODULES, FUNCTION)
        assert sys.modules["aiter"].whole

    def test_an_installed_aiter_elsewhere_is_not(self, tree) -> None:
        source = replace(tree(), origin="installed")
        (source.root / "aiter" / "__init__.py").write_text("raise RuntimeError('needs a ROCm build')\n")
        assert load_kernel(source, INTERPRETER, MODULES, FUNCTION)() == "one"

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (
                "import einops_of_another_world\n",
                r"AITER 0.1.20 \(tree\) needs the package 'einops_of_another_world', .*mha_v3",
            ),
            (
                "import aiter.gone\n",
                r"AITER 0.1.20 \(tree\) does not import under Triton .*: aiter.ops.triton.attention.mha_v3: No",
            ),
            (
                "raise ValueError('key\\n  names')",
                r"does not import under Triton .*: aiter.ops.triton.attention.mha_v3: key names",
            ),
            ("raise ValueError('x ' * 999)", r"does not import .*: x x .* \.\.\.$"),
            ("assert False", r"does not import under Triton .*: aiter.ops.triton.attention.mha_v3: AssertionError"),
            ("pass", r"AITER 0.1.20 \(tree\) has no flash_attn_with_kvcache in aiter.ops.triton.attention.mha_v3"),
        ],
    )
    def test_a_failing_import_names_its_cause(self, tree, body: str, sentence: str) -> None:
        with pytest.raises(AiterNotLoadable, match=sentence) as refusal:
            load_kernel(tree(body), INTERPRETER, MODULES, FUNCTION)
        assert "\n" not in str(refusal.value)

    def test_no_module_of_the_names(self, tree) -> None:
        source = tree(kernel="aiter/ops/triton/other.py")
        with pytest.raises(
            AiterNotLoadable, match=r"has no module aiter.ops.triton.attention.mha_v3 or aiter.ops.triton.mha"
        ):
            load_kernel(source, INTERPRETER, MODULES, FUNCTION)

    def test_the_cpu_runs_no_kernel(self, tree) -> None:
        with pytest.raises(AiterNotLoadable, match="has Triton kernels, which target cpu does not run"):
            load_kernel(tree(), Target("cpu", "cpu", torch.device("cpu")), MODULES, FUNCTION)

    def test_a_second_aiter_needs_a_process_of_its_own(self, tree) -> None:
        first, second = tree(), tree(name="second")
        load_kernel(first, INTERPRETER, MODULES, FUNCTION)
        with pytest.raises(
            AiterNotLoadable, match=r"needs a process of its own: this one has imported aiter from .*/tree/aiter"
        ):
            load_kernel(second, INTERPRETER, MODULES, FUNCTION)

    def test_locating_sees_past_a_loaded_aiter(self, tree, monkeypatch) -> None:
        load_kernel(tree(), INTERPRETER, MODULES, FUNCTION)
        monkeypatch.setattr(sys, "meta_path", [PathFinder])
        monkeypatch.setattr(sys, "path", [])
        assert locate(None) is None

    def test_loading_is_quiet(self, tree, monkeypatch) -> None:
        body = (
            "import os, warnings\n"
            "os.environ['TRITON_PRINT_AUTOTUNING'] = '1'\n"
            "warnings.warn('use_cuda_graph is deprecated', DeprecationWarning)\n"
            f"def {FUNCTION}(): return os.environ.get('TRITON_PRINT_AUTOTUNING')\n"
        )
        monkeypatch.delenv("TRITON_PRINT_AUTOTUNING", raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_kernel(tree(body), INTERPRETER, MODULES, FUNCTION)() is None

    def test_a_user_who_asked_for_autotuning_reports_keeps_them(self, tree, monkeypatch) -> None:
        monkeypatch.setenv("TRITON_PRINT_AUTOTUNING", "0")
        body = (
            "import os\n"
            "os.environ['TRITON_PRINT_AUTOTUNING'] = '1'\n"
            f"def {FUNCTION}(): return os.environ['TRITON_PRINT_AUTOTUNING']\n"
        )
        assert load_kernel(tree(body), INTERPRETER, MODULES, FUNCTION)() == "0"

    def test_operators_are_registered_under_their_own_names(self, tree) -> None:
        body = (
            "from torch.library import Library\n"
            "library = Library('aiter_conformance_test', 'FRAGMENT')\n"
            "library.define('aiter_conformance_test::double(Tensor x) -> Tensor')\n"
            f"def {FUNCTION}(): return library._op_defs\n"
        )
        define = torch.library.Library.define
        assert load_kernel(tree(body), INTERPRETER, MODULES, FUNCTION)() == {"aiter_conformance_test::double"}
        assert torch.library.Library.define is define
