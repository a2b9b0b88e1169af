"""Settings: what is taken from flags, JSON and Python, and what the refusals say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import SettingsError
from crawler.practice_shop.settings import NAMES, ShopSettings, changed


def test_flags_and_json_mean_the_same() -> None:
    from_flags = changed(
        ShopSettings(),
        {
            "redraw": "true",
            "card_delay_s": "1.5",
            "items_per_page": "48",
            "bad_pictures": ["404, gif", "429"],
            "faults": ["a=b=hang_html", "连衣裙=reset_once"],
            "empty_queries": ["一,二"],
            "session_searches": "3",
        },
    )
    from_json = changed(
        ShopSettings(),
        json.loads(
            '{"redraw": true, "card_delay_s": 1.5, "items_per_page": 48, "session_searches": 3,'
            ' "bad_pictures": ["404", "gif", "429"], "empty_queries": ["一,二"],'
            ' "faults": {"a=b": "hang_html", "连衣裙": "reset_once"}}'
        ),
    )
    assert from_flags == from_json
    assert from_flags.bad_pictures == ("404", "gif", "429")
    assert from_flags.empty_queries == ("一,二",)


def test_all_stands_for_every_choice() -> None:
    decoys = changed(ShopSettings(), {"decoys": "all"}).decoys
    assert set(decoys) == {"solved_widget", "blocked_iframe", "login_link", "login_xhr", "titles"}


def test_settings_survive_json() -> None:
    settings = ShopSettings(
        faults={"x": "hang_css"}, catalogue=Path("here"), layout="2022", url_forms=("png",)
    )
    assert changed(ShopSettings(), json.loads(json.dumps(settings.to_json()))) == settings
    assert set(settings.to_json()) == set(NAMES)


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ShopSettings().layout = "2022"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("layout", "1999", "'2022', '2023'"),
        ("card_delay_s", -1, "greater than or equal to 0"),
        ("card_delay_s", "nan", "finite"),
        ("qr_ttl_s", 0, "greater than 0"),
        ("qr_ttl_s", "inf", "finite"),
        ("items_per_page", 0, "greater than or equal to 1"),
        ("items_per_page", "many", "valid integer"),
        ("redraw", "perhaps", "valid boolean"),
        ("bad_pictures", "404,zip", "not 'zip'"),
        ("url_forms", [], "at least 1"),
        ("faults", ["连衣裙"], "QUERY=FAULT"),
        ("faults", {"连衣裙": "burn"}, "hang_html"),
        ("empty_queries", "abc", "valid tuple"),
        ("risk_kind", None, "captcha_overlay"),
        ("session_searches", 1.5, "valid integer"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        changed(ShopSettings(), {name: value})
    assert str(refusal.value).startswith(f"practice shop: {name}")
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no setting 'colour' .*seed, layout"):
        changed(ShopSettings(), {"colour": "red"})
