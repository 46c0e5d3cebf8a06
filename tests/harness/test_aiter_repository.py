"""AITER's git repository: which commit a ref names, which version a commit is, and the export of its kernels."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conformance.aiter_source import AiterNotFound
from tests.harness.small_aiter import KERNEL, Checkout, found, kernel_text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFORMANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


class TestRepository:
    def test_without_a_ref_a_bare_repository_means_its_head(self, checkout: Checkout, tmp_path: Path) -> None:
        checkout.commit("old", "v0.1.15")
        head = checkout.commit("new", "v0.1.16")
        source = found(checkout.bare(tmp_path / "bare"))
        assert (source.version, source.commit, source.origin) == ("0.1.16", head, "repository")
        assert source.described == f"0.1.16 ({head[:7]}, repository)"
        assert "'new'" in kernel_text(source)

    @pytest.mark.parametrize("ref", ["v0.1.15", "release", "commit", "HEAD~1", "main@{0}~1"])
    def test_a_ref_is_a_tag_a_branch_or_a_commit(self, checkout: Checkout, ref: str) -> None:
        commit = checkout.commit("old", "v0.1.15")
        checkout.git("branch", "release")
        checkout.commit("new")
        source = found(f"{checkout.path}@{commit if ref == 'commit' else ref}")
        assert (source.version, source.commit) == ("0.1.15", commit)
        assert "'old'" in kernel_text(source)

    def test_two_refs_live_side_by_side(self, checkout: Checkout) -> None:
        checkout.commit("old", "v0.1.15")
        checkout.commit("new", "v0.1.16")
        old, new = found(f"{checkout.path}@v0.1.15"), found(f"{checkout.path}@v0.1.16")
        assert ("'old'" in kernel_text(old), "'new'" in kernel_text(new)) == (True, True)

    def test_a_git_folder_is_a_repository_too(self, checkout: Checkout) -> None:
        commit = checkout.commit("one", "v0.1.16")
        assert found(checkout.path / ".git").commit == commit

    @pytest.mark.parametrize(
        ("tags", "version"),
        [
            (["v0.1.13-rc5", "v0.1.13"], "0.1.13"),
            (["v0.1.16", "v0.1.16.post1"], "0.1.16.post1"),
            (["v0.1.17-longctx", "v0.1.17-rc0"], "0.1.17rc0"),
            (["v0.1.16", "archive/v9.0", "2026.8.22", "nightly"], "0.1.16"),
        ],
    )
    def test_a_tagged_commit_has_the_tags_version(self, checkout: Checkout, tags: list[str], version: str) -> None:
        checkout.commit("one", *tags)
        assert found(f"{checkout.path}@HEAD").version == version

    @pytest.mark.parametrize(
        ("tags", "version"),
        [
            (["v0.1.14-rc0"], "0.1.14rc1.dev2"),
            (["v0.1.20"], "0.1.21.dev2"),
            (["v0.1.20.post1"], "0.1.20.post2.dev2"),
            (["v0.1.13.dev0"], "0.1.13.dev2"),
            (["v0.1.13-rc5", "v0.1.13"], "0.1.14.dev2"),
            (["v0.1.17-longctx", "archive/v9.0", "2026.8.22"], "unknown"),
            ([], "unknown"),
        ],
    )
    def test_a_later_commit_has_the_version_setuptools_scm_guesses(
        self, checkout: Checkout, tags: list[str], version: str
    ) -> None:
        checkout.commit("one", *tags)
        checkout.commit("two")
        commit = checkout.commit("three")
        expected = version if version == "unknown" else f"{version}+g{commit[:7]}"
        assert found(f"{checkout.path}@main").version == expected

    def test_what_follows_a_candidate_that_became_a_release_follows_the_release(self, checkout: Checkout) -> None:
        checkout.commit("one", "v0.1.13")
        checkout.git("tag", "--annotate", "--message", "candidate", "v0.1.13-rc5")  # which git describe prefers
        commit = checkout.commit("two")
        assert found(f"{checkout.path}@HEAD").version == f"0.1.14.dev1+g{commit[:7]}"

    def test_a_tag_without_a_version_hides_no_version_behind_it(self, checkout: Checkout) -> None:
        checkout.commit("one", "v0.1.16")
        commit = checkout.commit("two", "v0.1.17-longctx")
        assert found(f"{checkout.path}@HEAD").version == f"0.1.17.dev1+g{commit[:7]}"

    def test_environment_of_a_git_hook_is_ignored(self, checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = checkout.commit("one", "v0.1.16")
        monkeypatch.setenv("GIT_DIR", "/nowhere")
        assert found(f"{checkout.path}@HEAD").commit == commit


class TestExport:
    def test_only_what_kernels_import_is_exported_and_says_what_it_is(self, checkout: Checkout) -> None:
        commit = checkout.commit("one", "v0.1.16")
        root = found(f"{checkout.path}@HEAD").root
        files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
        assert files == {KERNEL, "aiter/ops/__init__.py", "source.json"}
        noted = json.loads((root / "source.json").read_text())
        assert noted == {"version": "0.1.16", "commit": commit, "description": f"v0.1.16-0-g{commit[:7]}"}

    def test_a_carried_export_is_a_tree_that_knows_its_version(self, checkout: Checkout, tmp_path: Path) -> None:
        commit = checkout.commit("one", "v0.1.16")
        shutil.copytree(found(f"{checkout.path}@HEAD").root, tmp_path / "carried")
        source = found(tmp_path / "carried")
        assert (source.version, source.commit, source.origin) == ("0.1.16", commit, "tree")

    def test_an_export_is_made_once(self, checkout: Checkout) -> None:
        checkout.commit("one", "v0.1.16")
        root = found(f"{checkout.path}@HEAD").root
        (root / "mark").touch()
        assert (found(f"{checkout.path}@v0.1.16").root / "mark").exists()

    def test_a_version_tag_set_after_the_export_counts(self, checkout: Checkout) -> None:
        checkout.commit("one", "v0.1.16-rc0")
        root = found(f"{checkout.path}@HEAD").root
        checkout.git("tag", "v0.1.16")
        assert found(f"{checkout.path}@HEAD").version == "0.1.16"
        assert found(root).version == "0.1.16"

    def test_processes_may_export_at_once(self, checkout: Checkout, cache: Path) -> None:
        checkout.commit("one", "v0.1.16")
        with ThreadPoolExecutor(8) as processes:
            sources = list(processes.map(found, [f"{checkout.path}@HEAD"] * 8))
        assert len(set(sources)) == 1
        assert [folder.name for folder in (cache / "aiter-2").iterdir()] == [sources[0].commit]

    def test_an_export_that_fails_leaves_nothing(self, checkout: Checkout, cache: Path) -> None:
        checkout.commit("one", "v0.1.16")
        cache.parent.mkdir(exist_ok=True)
        cache.write_text("a file where the folder should be")
        with pytest.raises(AiterNotFound, match=r"AITER \w{7} cannot be exported to .*: .*"):
            found(f"{checkout.path}@HEAD")
        assert cache.is_file()

    def test_the_cache_is_where_caches_are(self, checkout: Checkout, tmp_path: Path, monkeypatch) -> None:
        checkout.commit("one", "v0.1.16")
        monkeypatch.delenv("CONFORMANCE_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert found(f"{checkout.path}@HEAD").root.is_relative_to(tmp_path / "xdg" / "aiter-conformance")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert found(f"{checkout.path}@HEAD").root.is_relative_to(tmp_path / "home" / ".cache" / "aiter-conformance")
