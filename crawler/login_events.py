"""What a login tells the human: its steps, and the words for them in English and Chinese."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

SEPARATOR = " · "  # between the English and the Chinese half of a message


class LoginStep(str, Enum):
    """Where a login is. QR_SHOWN is the only step in which there is something to scan."""

    PROBE = "probe"
    OPEN_LOGIN = "open_login"
    SWITCH_TO_QR = "switch_to_qr"
    NO_CODE = "no_code"  # nothing to scan was found; the human may log in in the window
    QR_SHOWN = "qr_shown"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SCANNED = "scanned"
    CONFIRMED = "confirmed"
    KEEP_LOGIN = "keep_login"
    IDENTITY_CHECK = "identity_check"
    VERIFY = "verify"
    LOGGED_IN = "logged_in"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the login has ended."""
        return self in (LoginStep.LOGGED_IN, LoginStep.FAILED)


@dataclass(frozen=True)
class LoginEvent:
    """One thing to tell. message: one line, English SEPARATOR Chinese, without secrets.

    payload: what the code says, None if there is none or it could not be read. png: the code as a picture.
    number: which code, from 1. Neither payload nor picture is ever logged, so `repr` leaves them out.
    """

    step: LoginStep
    message: str
    payload: str | None = field(default=None, repr=False)
    png: bytes | None = field(default=None, repr=False)
    number: int = 0


class LoginUI(Protocol):
    """Whoever tells the human. Several logins may use one UI after another."""

    def show(self, event: LoginEvent) -> None:
        """Tell; what an earlier event showed is out of date. Raises OSError if that is impossible."""

    def close(self) -> None:
        """The login has ended: leave nothing of a code behind. Safe to call twice."""


_WORDS: dict[LoginStep, tuple[str, str]] = {
    LoginStep.PROBE: ("looking whether you are logged in", "正在检查登录状态"),
    LoginStep.OPEN_LOGIN: ("opening the login page", "正在打开登录页面"),
    LoginStep.SWITCH_TO_QR: ("asking for a QR code", "正在切换到扫码登录"),
    LoginStep.NO_CODE: (
        "no QR code found on the page: log in in the browser window",
        "页面上没有找到二维码，请直接在浏览器窗口中登录",
    ),
    LoginStep.QR_SHOWN: (
        "scan the code with the {site} app (code {number} of {codes})",
        "请用手机{site} App 扫码登录（第 {number} 个，共 {codes} 个）",
    ),
    LoginStep.EXPIRED: (
        "the code has expired; getting a new one: code {number} of {codes}",
        "二维码已过期，正在获取新的二维码（第 {number} 个，共 {codes} 个）",
    ),
    LoginStep.CANCELLED: (
        "cancelled on the phone; getting a new code: {number} of {codes}",
        "您已在手机上取消，正在获取新的二维码（第 {number} 个，共 {codes} 个）",
    ),
    LoginStep.SCANNED: ("scanned; now confirm on the phone", "扫码成功，请在手机上确认登录"),
    LoginStep.CONFIRMED: ("confirmed; one moment", "已确认，请稍候"),
    LoginStep.IDENTITY_CHECK: (
        "the site wants to check who you are: answer on the phone or in the browser window",
        "网站要求验证身份，请在手机上或浏览器窗口中完成验证",
    ),
    LoginStep.VERIFY: ("checking that the login works", "正在确认登录是否有效"),
}
_KEEP = {
    True: ("“stay logged in?” answered: yes", "“是否保持登录？”已回答：是"),
    False: ("“stay logged in?” answered: no", "“是否保持登录？”已回答：否"),
}


def to_stderr(line: str) -> None:
    """Say one line to the human, next to the log."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def words(step: LoginStep, **values: object) -> str:
    """The message of a step that needs no more than `values` (site, number, codes)."""
    english, chinese = _WORDS[step]
    return f"{english.format(**values)}{SEPARATOR}{chinese.format(**values)}"


def keep_words(keep: bool) -> str:
    """How the question "stay logged in?" was answered."""
    return SEPARATOR.join(_KEEP[keep])


def logged_in_words(nick: str) -> str:
    """The happy end; `nick` is masked or empty."""
    return f"logged in{nick and f' as {nick}'}{SEPARATOR}登录成功{nick and f'：{nick}'}"


def failed_words(reason: str) -> str:
    """The other end; `reason` is the line of the error, which is English."""
    return f"{reason}{SEPARATOR}登录未完成"
