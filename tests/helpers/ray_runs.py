"""The smallest run on Ray that is still a whole one."""

from tests.helpers.tiny_settings import ON_RAY

TINY = ON_RAY
