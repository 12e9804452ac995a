"""What a function says of a user's mistake."""

from typing import Any

import pytest

from act_ray.errors import UserError


def refusal(call: Any, *args: Any) -> str:
    """The one line of the UserError that `call(*args)` raises."""
    with pytest.raises(UserError) as error:
        call(*args)
    message = str(error.value)
    assert "\n" not in message
    return message
