"""What counts as a secret, and that nothing else is touched."""

from __future__ import annotations

import json

import pytest
import yaml

from effbench.config import static_compose as static
from effbench.config.compose import compose
from effbench.redaction import is_secret_key, is_secret_variable, redact, redact_environment

pytestmark = pytest.mark.row(45)

CANARY = "c4nary-9f8e7d"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "GITHUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "MYSQL_PWD",
        "DB_PASSWORD", "PGPASSWORD", "dbpasswd", "CLIENT_SECRET", "MLFLOW_TRACKING_PASSWORD", "SSH_PRIVATE_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS", "BASIC_AUTH", "OPENAI_APIKEY", "NETRC_PASSPHRASE", "X-Api-Key",
        "SESSION_COOKIE",
    ],
)  # fmt: skip
def test_variables_that_hold_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_secret_variable(name)
    monkeypatch.setenv(name, CANARY)
    assert redact(f"an error about {CANARY}!") == "an error about ***!"


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "PWD", "OLDPWD", "GIT_AUTHOR_NAME", "SSH_AUTH_SOCK", "KEYBOARD", "TOKENIZERS_PARALLELISM",
     "OMP_NUM_THREADS", "LANG", "MONKEY", "SECRETARY", "XAUTHORITY", "COLORTERM"],
)  # fmt: skip
def test_variables_that_hold_none(name: str) -> None:
    assert not is_secret_variable(name)


@pytest.mark.parametrize(
    "key",
    ["token", "api_key", "logger.api_key", "data.accessKey", "password", "db_password", "hydra.job.env_set.HF_TOKEN",
     "model.auth", "clientSecret", "secret_key", "private_key", "x.credentials", "authToken"],
)  # fmt: skip
def test_keys_that_hold_secrets(key: str) -> None:
    assert is_secret_key(key)
    assert redact({key: CANARY, "other": 1}) == {key: "***", "other": 1}
    assert redact({key: 123456}) == {key: "***"}
    assert redact({key: [CANARY], "a": {"b": {key: {"c": CANARY}}}}) == {key: "***", "a": {"b": {key: "***"}}}
    assert redact([f"{key}={CANARY}", f"+{key}='a, {CANARY} b'"]) == [f"{key}=***", f"+{key}=***"]
    assert CANARY not in redact(f"model refuses: given lr=0.1, {key}='{CANARY} x', eps=1")
    assert CANARY not in redact(f"train a=1 {key}={CANARY} b=2")
    assert CANARY not in redact(repr({"a": 1, key: CANARY}))
    assert CANARY not in redact(json.dumps({"a": 1, key: CANARY}))


@pytest.mark.slow
def test_every_key_of_the_config_is_kept() -> None:
    """None of effbench's own names may look like a secret."""
    for overrides in ([], ["model=vit_tiny"], ["model=swin"], ["data=cifar10"], ["data=synthetic"], ["logger=wandb"]):
        config = compose(overrides)
        assert config.to_dict() == config.model_dump(by_alias=True)


@pytest.mark.parametrize(
    "text",
    [
        "cls_token", "model.freeze=[cls_token]", "model.token_dropout=0.1", "token_dim=64", "num_tokens=64",
        "tokenizer=bert", "monkey=1", "author: someone", "keyboard=us", "the token is spent", "lr/no_decay",
        "key=value", "optimizer.lr=3e-4", "token", "a.token=null", "x.use_auth=true", "https://example.org/a?b=c",
        "git@example.org:a/b.git", "12:30", "***",
    ],
)  # fmt: skip
def test_ordinary_text_is_kept(text: str) -> None:
    assert redact(text) == text


def test_numbers_flags_and_nothing_are_kept() -> None:
    content = {"token": None, "use_token": True, "password": "", "a": [1, 2.5, None, "x"], "cls_token": 3}
    assert redact(content) == content


def test_a_reference_to_a_variable_says_only_where_a_secret_is() -> None:
    assert redact({"api_key": "${oc.env:MY_KEY}"}) == {"api_key": "${oc.env:MY_KEY}"}
    assert redact({"api_key": "${oc.env:MY_KEY,fallback}"}) == {"api_key": "***"}


@pytest.mark.parametrize("address", ["https://me:pw@example.org/x", "https://ghp_abc@example.org", "mysql://a:b@h/d"])
def test_the_user_of_an_address_is_left_out(address: str) -> None:
    assert (
        redact(f"git remote {address}") == f"git remote {address.partition('//')[0]}//***@{address.partition('@')[2]}"
    )


def test_short_values_are_kept_for_they_are_in_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "true")
    assert redact("construe: true") == "construe: true"


@pytest.mark.parametrize(
    "secret",
    [
        "it's: a secret",
        'say "friend"',
        "back\\slash!",
        "zwei\nzeilen hier",
        "größe-und-ü",
        "a b  c d",
        "%&/()=",
        "🔑-und-schlüssel",
        'ein "größerer" schlüssel 🔑',
        "nbsp\xa0schlüssel",
    ],
)
def test_a_secret_is_found_however_it_is_written(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", secret)
    written = [
        secret,
        json.dumps([secret]),
        json.dumps([secret], ensure_ascii=False),
        repr([secret]),
        yaml.safe_dump({"a": secret}),
        yaml.safe_dump({"a": secret}, allow_unicode=True),
        yaml.safe_dump({"a": f"{'long ' * 14}{secret} {'after ' * 20}"}, allow_unicode=True),
        yaml.safe_dump({"a": secret}, default_style='"'),
        *(yaml.safe_dump({"a": f"{'long ' * count}{secret} {'after ' * 20}"}) for count in range(10, 16)),
    ]
    for text in written:
        assert "***" in redact_environment(text), text


def test_a_file_s_own_text_is_only_searched_for_known_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", CANARY)
    assert redact_environment(f"password: yes, {CANARY}") == "password: yes, ***"


def test_no_key_of_the_shipped_configs_is_a_secret_name() -> None:
    """Its value would be *** in the record of a run, which then could not be read."""
    groups = static.group_options()
    keys = {key for group in groups for part in static.members(group).values() for key in static.all_keys(part)}
    assert "token_dropout" in keys
    assert [key for key in sorted(keys) if is_secret_key(key)] == []
