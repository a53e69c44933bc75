"""Where a model name leads to."""

from pathlib import Path

import pytest

from engine.model_source import NoSuchModelError, resolve


def test_the_embedded_model_is_in_the_package() -> None:
    location, name = resolve("embedded")
    assert name == "penstock-tiny"
    assert (Path(location) / "config.json").is_file()


def test_a_directory_is_called_by_its_last_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert resolve(str(folder)) == (str(folder), "my-model")
    assert resolve(f"{folder}/") == (str(folder), "my-model")
    assert resolve(f"{folder}/../my-model")[1] == "my-model"


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModelError, match=r"has no config\.json"):
        resolve(str(tmp_path))


def test_a_hub_name_stays_as_it_is() -> None:
    assert resolve("mlx-community/SmolLM-135M") == ("mlx-community/SmolLM-135M",) * 2


@pytest.mark.parametrize("source", ["/no/such", "./no/such", "../no", "~/no-such", "no-such", "a/b/c"])
def test_anything_else_is_refused_and_the_message_says_what_is_allowed(source: str) -> None:
    with pytest.raises(NoSuchModelError, match=r"no such directory; allowed: .*hub name ORG/NAME"):
        resolve(source)
