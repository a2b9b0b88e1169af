"""The products on a page: made up from the query, the same for the same seed."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from crawler.practice_shop.addresses import picture_path
from crawler.practice_shop.catalogue import Catalogue
from crawler.practice_shop.settings import ShopSettings

AD_QUERY, RECOMMENDED_QUERY = "广告 别的商品", "推荐 别的商品"  # what the wrong pictures show
_RECOMMENDED = 8
_GOOD_KINDS = {"png": "png", "gif": "gif"}  # kinds whose address has another extension
_BEFORE = ("2024新款", "爆款", "厂家直销", "网红同款", "高级感", "旗舰", "秋冬", "轻奢", "官方正品", "学生")
_AFTER = ("包邮", "加厚", "大容量", "耐用", "ins风", "百搭", "男女通用", "送礼", "家用", "一件代发")
_DECOY_WORDS = ("手机验证码接收", "滑块轴承", "登录器", "请点击刷新", "被挤爆啦")
_SHOPS = ("晴天小铺", "阿木优品", "南山百货", "青禾旗舰店", "一间好物", "小满生活馆")
_PLACES = ("浙江 杭州", "广东 深圳", "江苏 苏州", "福建 泉州", "上海", "山东 青岛")


@dataclass(frozen=True)
class Item:
    """One product. query, number: which picture is its own. kind: of its picture, "ok" or a BadPicture."""

    item_id: str
    query: str
    number: int
    kind: str
    picture: str
    title: str
    price: str
    sold: int
    shop: str
    place: str
    tmall: bool
    ad: bool = False


def item_id_of(query: str, number: int) -> str:
    """Twelve digits, always the same for a picture."""
    digest = hashlib.sha256(f"{number} {query}".encode("utf-8", "surrogatepass")).digest()
    return str(int.from_bytes(digest[:8], "big") % (9 * 10**11) + 10**11)


def page_of_items(settings: ShopSettings, catalogue: Catalogue | None, query: str, page: int) -> list[Item]:
    """The cards of a result page, an advertisement first if there are any. Pages count from 1."""
    files = None if catalogue is None else catalogue.get(query, ())
    first = (page - 1) * settings.items_per_page
    last = first + settings.items_per_page
    if files is not None:
        last = min(last, len(files))
    items = [_item(settings, query, number, files is not None) for number in range(first, last)]
    if settings.ads and items:
        items.insert(0, _make(settings, AD_QUERY, first, "ok", query, ad=True))
    return items


def recommended_items(settings: ShopSettings) -> list[Item]:
    """Products that have nothing to do with any query."""
    return [_make(settings, RECOMMENDED_QUERY, number, "ok", "好物") for number in range(_RECOMMENDED)]


def _item(settings: ShopSettings, query: str, number: int, real: bool) -> Item:
    kinds = settings.bad_pictures
    kind: str = kinds[number] if number < len(kinds) else "ok"
    if number == 0 and settings.faults.get(query) == "hang_image":
        kind = "hang"
    if kind == "duplicate_item":  # the first ordinary one, once more
        number, kind = len(kinds), "ok"
    if real and kind == "ok":
        kind = "file"
    return _make(settings, query, number, kind, query)


def _make(
    settings: ShopSettings, query: str, number: int, kind: str, subject: str, *, ad: bool = False
) -> Item:
    chance = random.Random(f"{settings.seed} {number} {query} {subject}")
    words = [chance.choice(_BEFORE), subject, *chance.sample(_AFTER, 2)]
    if "titles" in settings.decoys:
        words.insert(2, _DECOY_WORDS[number % len(_DECOY_WORDS)])
    return Item(
        item_id=item_id_of(query, number),
        query=query,
        number=number,
        kind=kind,
        picture=picture_path(query, number, kind, _GOOD_KINDS.get(kind, "jpg")),
        title=" ".join(words),
        price=f"{chance.randrange(500, 99900) / 100:.2f}",
        sold=chance.randrange(3, 5000),
        shop=chance.choice(_SHOPS),
        place=chance.choice(_PLACES),
        tmall=chance.random() < 0.3,
        ad=ad,
    )
