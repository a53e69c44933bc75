"""The file with limits per tenant."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from config import ConfigError, TenantSettings, load, load_tenants

ADMISSION = load(None, None, {}, {}).settings.admission
DEFAULTS = ADMISSION.tenants
WEIGHT = "allowed: a number from 0.01 to 1000"
COUNT = "allowed: an integer from 0 to 10000"
NAME = "allowed: a text of 1 to 128 characters"
KEYS = "weight, max_streams, requests_per_s, tokens_per_s, max_class"


def tenants_file(folder: Path, text: str) -> Path:
    path = folder / "tenants.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> list[str]:
    """Return the problems of a file, without the folder in front of them."""
    with pytest.raises(ConfigError) as error:
        load_tenants(tenants_file(folder, text), DEFAULTS)
    return [problem.replace(f"{folder}/", "") for problem in error.value.problems]


def test_limits_are_read(tmp_path: Path) -> None:
    text = """
    tenants:
      acme: {weight: 4, max_streams: 20, requests_per_s: 10, tokens_per_s: 5000.5, max_class: system}
    """
    assert load_tenants(tenants_file(tmp_path, text), DEFAULTS) == {
        "acme": TenantSettings(
            weight=4.0, max_streams=20, requests_per_s=10.0, tokens_per_s=5000.5, max_class="system"
        )
    }


def test_the_example_in_the_documentation_loads(tmp_path: Path) -> None:
    docs = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    example = docs.partition("```yaml\n")[2].partition("```")[0]
    tenants = load_tenants(tenants_file(tmp_path, example), DEFAULTS)
    assert {name: (each.weight, each.max_class) for name, each in tenants.items()} == {
        "acme": (4.0, "system"),
        "bulk.example": (1.0, "bulk"),
    }


def test_a_missing_limit_is_the_one_of_the_defaults(tmp_path: Path) -> None:
    defaults = load(
        None,
        None,
        {},
        {
            "admission": {
                "tenants": {
                    "weight": 2.5,
                    "max_streams": 3,
                    "requests_per_s": 4.0,
                    "tokens_per_s": 5.0,
                    "max_class": "bulk",
                }
            }
        },
    ).settings.admission.tenants
    tenants = load_tenants(
        tenants_file(tmp_path, "tenants:\n  a-b: {weight: 1}\n  'x.y':\n  z: {}\n"), defaults
    )
    usual = {"max_streams": 3, "requests_per_s": 4.0, "tokens_per_s": 5.0, "max_class": "bulk"}
    assert {name: each.model_dump() for name, each in tenants.items()} == {
        "a-b": {"weight": 1.0, **usual},
        "x.y": {"weight": 2.5, **usual},
        "z": {"weight": 2.5, **usual},
    }


def test_the_limits_are_frozen(tmp_path: Path) -> None:
    acme = load_tenants(tenants_file(tmp_path, "tenants: {acme: }"), DEFAULTS)["acme"]
    with pytest.raises(ValidationError, match="frozen"):
        acme.weight = 2.0


@pytest.mark.parametrize("text", ["", "# nobody\n", "{}", "tenants:\n", "tenants: {}"])
def test_a_file_may_name_nobody(text: str, tmp_path: Path) -> None:
    assert load_tenants(tenants_file(tmp_path, text), DEFAULTS) == {}


@pytest.mark.parametrize("name", ["a", "x" * 128, "héllo wörld", "123abc"])
def test_names_of_any_text(name: str, tmp_path: Path) -> None:
    assert list(load_tenants(tenants_file(tmp_path, f'tenants: {{"{name}": }}'), DEFAULTS)) == [name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tenant: {}", "tenant: unknown key; nearest known key: tenants"),
        ("x: 1", "x: unknown key; nearest known key: tenants"),
        ("tenants: {acme: {wieght: 1}}", "tenants.acme.wieght: unknown key; nearest known key: weight"),
        ("tenants: {acme: {burst_ms: 1}}", f"tenants.acme.burst_ms: unknown key; known keys: {KEYS}"),
        ("tenants: {acme: {1: 1}}", f'tenants.acme."1": unknown key; known keys: {KEYS}'),
        ("tenants: {acme: {weight: '1'}}", f'tenants.acme.weight: got "1"; {WEIGHT}'),
        ("tenants: {acme: {weight: 0}}", f"tenants.acme.weight: got 0; {WEIGHT}"),
        ("tenants: {acme: {weight: .nan}}", f"tenants.acme.weight: got nan; {WEIGHT}"),
        ("tenants: {acme: {weight: }}", f"tenants.acme.weight: got null; {WEIGHT}"),
        ("tenants: {acme: {max_streams: 1.5}}", f"tenants.acme.max_streams: got 1.5; {COUNT}"),
        ("tenants: {acme: {max_streams: true}}", f"tenants.acme.max_streams: got true; {COUNT}"),
        ("tenants: {acme: {max_streams: -1}}", f"tenants.acme.max_streams: got -1; {COUNT}"),
        (
            "tenants: {acme: {tokens_per_s: .inf}}",
            "tenants.acme.tokens_per_s: got inf; allowed: a number from 0 to 1000000000",
        ),
        (
            "tenants: {a.b: {max_class: high}}",
            'tenants."a.b".max_class: got "high"; allowed: one of system, interactive, default, bulk',
        ),
        ("tenants: {acme: 4}", f"tenants.acme: got 4; allowed: a mapping with some of the keys {KEYS}"),
        (
            "tenants: {acme: [4]}",
            f"tenants.acme: got a list; allowed: a mapping with some of the keys {KEYS}",
        ),
        ("tenants: [acme]", "tenants: got a list; allowed: a mapping from names to limits"),
        ("tenants: acme", 'tenants: got "acme"; allowed: a mapping from names to limits'),
        ("tenants: {'': {}}", f'tenants."": got a name of 0 characters; {NAME}'),
        (
            f"tenants: {{{'x' * 129}: {{}}}}",
            f"tenants.{'x' * 129}: got a name of 129 characters; {NAME}",
        ),
        ("tenants: {123: {}}", f'tenants."123": got the name 123; {NAME}'),
        ("tenants: {yes: {}}", f'tenants."True": got the name true; {NAME}'),
        ("- acme", "got a list; allowed: a mapping with the key tenants"),
        (
            "tenants:\n  acme: {}\n  acme: {}\n",
            "line 3: not valid YAML: duplicate key acme",
        ),
        ("tenants: [", "line 1: not valid YAML: expected the node content, but found '<stream end>'"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, expected: str, tmp_path: Path) -> None:
    assert refused(tmp_path, text) == [f"tenants.yaml: {expected}"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_tenants(tmp_path / "none.yaml", DEFAULTS)
    assert error.value.problems == (f"{tmp_path}/none.yaml: file not found",)


def test_every_problem_of_a_file_is_named(tmp_path: Path) -> None:
    text = """
    limits: {}
    tenants:
      acme: {weight: -1, max_class: x, speed: 9}
      "": {max_streams: a}
      5: none
      fine: {weight: 2}
    """
    assert refused(tmp_path, text) == [
        "tenants.yaml: limits: unknown key; nearest known key: tenants",
        f"tenants.yaml: tenants.acme.weight: got -1; {WEIGHT}",
        'tenants.yaml: tenants.acme.max_class: got "x"; allowed: one of system, interactive, default, bulk',
        f"tenants.yaml: tenants.acme.speed: unknown key; known keys: {KEYS}",
        f'tenants.yaml: tenants."": got a name of 0 characters; {NAME}',
        f'tenants.yaml: tenants."".max_streams: got "a"; {COUNT}',
        f'tenants.yaml: tenants."5": got the name 5; {NAME}',
        f'tenants.yaml: tenants."5": got "none"; allowed: a mapping with some of the keys {KEYS}',
    ]
