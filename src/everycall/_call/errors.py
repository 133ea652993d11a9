"""The error of a call: what its record says about an exception, and whose text is withheld.

An omit flag covers the texts of errors too, because they may repeat the content that it omits. The text of an error is
also withheld from the calls above, which the error may pass through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everycall import limits
from everycall._call import exceptions
from everycall._call.context import clipped
from everycall.record import error_without_content
from everycall.semconv import CANCELLED, CODE_LOCATION, ERROR

if TYPE_CHECKING:
    from everycall._call.call import OwnedCall

__all__ = ["set_error"]


def set_error(call: OwnedCall, error: BaseException | str) -> None:
    """Set the status, the error's text and type, and its attributes in a call's draft. The call goes on."""
    draft = call._draft
    draft["status"] = ERROR
    if isinstance(error, str):
        text = clipped(error, limits.ERROR_CHARS_MAX)
        draft.update(error=text, error_type=draft.get("error_type") or "error")
        return
    if type(error).__name__ == "CancelledError":
        draft.update(error=CANCELLED, error_type=CANCELLED)
        return
    name = exceptions.type_name(error)
    location = exceptions.location(error)
    attributes = {CODE_LOCATION: location} if location else {}
    if call.omit or exceptions.holds(error, call._withheld_errors):
        _withhold(call, error)
        draft.update(error=error_without_content(name, location), error_type=name)
    else:
        message = exceptions.message(error)
        draft.update(error=f"{name}: {message}" if message else name, error_type=name)
        attributes["exception.stacktrace"] = exceptions.stacktrace(error)
    call._attributes = {**(call._attributes or {}), **attributes}


def _withhold(call: OwnedCall, error: BaseException) -> None:
    """Note that an error's text is omitted, for this call and for the call above.

    Errors are recognised by identity, type and place: keeping an error would keep its frames alive.
    """
    if call._sampled_out:
        return
    if not call.omit:
        call._draft["omitted"] = [*call._draft.get("omitted", ()), "error"]
    around = call.above or call.around
    if around is not None:
        around._withheld_errors = (
            *around._withheld_errors[1 - limits.ERRORS_WITHHELD_MAX :],
            exceptions.identity(error),
        )
