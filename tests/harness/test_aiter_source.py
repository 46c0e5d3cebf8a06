"""Which AITER a specification names, and what a tree or an installation says of its version."""

from __future__ import annotations

import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from conformance.aiter_source import AiterNotFound, AiterSource, locate
from tests.harness.small_aiter import KERNEL, Checkout, found, kernel_text, write_tree


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFORMANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


class TestTree:
    def test_a_working_tree_means_its_files_as_they_lie(self, checkout: Checkout) -> None:
        commit = checkout.commit("one", "v0.1.16")
        source = found(checkout.path)
        assert (source.root, source.origin) == (checkout.path, "tree")
        assert (source.version, source.commit) == ("0.1.16", commit)

    def test_uncommitted_changes_show_in_the_version(self, checkout: Checkout) -> None:
        commit = checkout.commit("one", "v0.1.16")
        (checkout.path / KERNEL).write_text("changed = True\n")
        assert found(checkout.path).version == f"0.1.17.dev0+g{commit[:7]}.dirty"
        assert "changed" not in kernel_text(found(f"{checkout.path}@HEAD"))

    @pytest.mark.parametrize(
        ("file", "text", "version"),
        [
            ("aiter/_version.py", "__version__ = version = '0.1.16.post2'\n__commit_id__ = None\n", "0.1.16.post2"),
            ("aiter/_version.py", "version: str\nversion = '0.1.14-rc0'\n", "0.1.14rc0"),
            ("PKG-INFO", "Metadata-Version: 2.4\nName: amd-aiter\nVersion: 0.1.15\n", "0.1.15"),
            ("amd_aiter-0.1.18.dist-info/METADATA", "Name: amd-aiter\nVersion: 0.1.18\n", "0.1.18"),
            ("aiter.egg-info/PKG-INFO", "Name: aiter\nVersion: 0.1.9.post1\n", "0.1.9.post1"),
            ("PKG-INFO", "Metadata-Version: 2.4\nVersion: latest\n", "unknown"),
            ("source.json", "{}", "unknown"),
            ("README", "AITER 0.1.20\n", "unknown"),
        ],
    )
    def test_a_plain_tree_has_the_version_it_states(self, tmp_path: Path, file: str, text: str, version: str) -> None:
        root = write_tree(tmp_path / "plain")
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(text)
        source = found(root)
        assert (source.version, source.commit) == (version, "")
        assert source.described == f"{version} (tree)"

    def test_a_tree_within_another_repository_is_not_that_repository(self, checkout: Checkout) -> None:
        checkout.commit("one", "v0.1.16")
        inner = write_tree(checkout.path / "vendor")
        assert found(inner).version == "unknown"
        with pytest.raises(AiterNotFound, match="vendor is not a git repository, so it has no ref 'HEAD'"):
            found(f"{inner}@HEAD")

    def test_a_path_may_begin_at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_tree(tmp_path / "plain")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert found("~/plain").root == tmp_path / "plain"

    def test_a_path_may_hold_an_at_sign(self, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path / "me@work" / "aiter@main")
        write_tree(tmp_path / "me")
        commit = checkout.commit("one", "v0.1.16")
        checkout.commit("two")
        assert found(checkout.path).origin == "tree"
        assert found(f"{checkout.path}@v0.1.16").commit == commit
        with pytest.raises(AiterNotFound, match="aiter@main has no commit 'v9'"):
            found(f"{checkout.path}@v9")


class TestRefusals:
    @pytest.mark.parametrize(
        ("spec", "sentence"),
        [
            ("nowhere", r"no AITER at '.*/nowhere': there is no such path"),
            ("nowhere@v0.1.16", r"no AITER at '.*/nowhere@v0.1.16': there is no such path"),
            ("plain@", r"no AITER at '.*/plain@': there is no such path"),
            ("plain@v0.1.16", r"plain is not a git repository, so it has no ref 'v0.1.16'"),
            ("empty", r"no AITER at .*/empty: it holds no aiter/ops/triton"),
            ("checkout@v0.9", r"checkout has no commit 'v0.9'"),
            ("checkout@--all", r"checkout has no commit '--all'"),
            (
                "checkout@before",
                r"commit \w{7} of .*/checkout holds no aiter/ops/triton: it is not AITER, or older than",
            ),
            ("damaged", r"damaged has no commit 'HEAD'"),
        ],
    )
    def test_each_says_what_is_missing(self, checkout: Checkout, tmp_path: Path, spec: str, sentence: str) -> None:
        checkout.commit("one")
        checkout.git("rm", "--quiet", "-r", "aiter/ops/triton")
        checkout.git("commit", "--quiet", "--message", "before")
        checkout.git("tag", "before")
        write_tree(tmp_path / "plain")
        (tmp_path / "empty").mkdir()
        (tmp_path / "damaged" / "objects").mkdir(parents=True)
        (tmp_path / "damaged" / "HEAD").touch()
        with pytest.raises(AiterNotFound, match=sentence) as refusal:
            found(tmp_path / spec)
        assert "\n" not in str(refusal.value)

    def test_git_that_refuses_is_quoted(self, checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
        checkout.commit("one", "v0.1.16")
        (checkout.path / ".git" / "config").write_text("[core\n")
        with pytest.raises(AiterNotFound, match=r"checkout has no commit 'HEAD': fatal: bad config line 1"):
            found(f"{checkout.path}@HEAD")

    def test_without_git_only_repositories_are_refused(self, checkout: Checkout, tmp_path: Path, monkeypatch) -> None:
        checkout.commit("one", "v0.1.16")
        monkeypatch.setenv("PATH", "")
        assert found(write_tree(tmp_path / "plain")).version == "unknown"
        with pytest.raises(AiterNotFound, match=r"git is not installed, and .*/checkout is a git repository"):
            found(f"{checkout.path}@HEAD")


class TestInstalled:
    @pytest.fixture
    def site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder of installed packages, the only one there is."""
        monkeypatch.setattr(sys, "meta_path", [PathFinder])
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
        (tmp_path / "site").mkdir()
        return tmp_path / "site"

    @staticmethod
    def install(site: Path, name: str, version: str, **files: str) -> None:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        for file, text in {"METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n", **files}.items():
            (info / file.replace("_json", ".json")).write_text(text)

    def test_nothing_installed_is_none(self, site: Path) -> None:
        assert locate(None) is None

    @pytest.mark.parametrize("name", ["amd-aiter", "aiter"])
    def test_an_installed_aiter_is_found_without_importing_it(self, site: Path, name: str) -> None:
        write_tree(site)
        (site / "aiter" / "__init__.py").write_text("raise RuntimeError('imported')\n")
        self.install(site, name, "0.1.16.post3")
        assert locate(None) == AiterSource(site, "installed", "0.1.16.post3", "")

    def test_pip_may_have_noted_the_commit(self, site: Path) -> None:
        write_tree(site)
        commit = "0123456789" * 4
        self.install(site, "amd-aiter", "0.1.16", direct_url_json=json.dumps({"vcs_info": {"commit_id": commit}}))
        assert locate(None) == AiterSource(site, "installed", "0.1.16", commit)

    def test_another_project_of_that_name_is_not_aiter(self, site: Path) -> None:
        (site / "aiter").mkdir()
        (site / "aiter" / "__init__.py").touch()
        self.install(site, "aiter", "0.13.20191203")
        assert locate(None) is None

    def test_an_editable_install_is_what_its_checkout_is(self, site: Path, tmp_path: Path, monkeypatch) -> None:
        checkout = Checkout(tmp_path / "checkout")
        commit = checkout.commit("one", "v0.1.18")
        monkeypatch.setattr(sys, "path", [str(checkout.path), str(site)])
        self.install(site, "amd-aiter", "0.1.16")
        assert locate(None) == AiterSource(checkout.path, "installed", "0.1.18", commit)

    def test_an_importable_tree_is_a_tree(self, site: Path) -> None:
        write_tree(site)
        assert locate(None) == AiterSource(site, "tree", "unknown", "")
