"""Where the authority of a test is."""

import pytest


@pytest.fixture
def home(tmp_path):
    return tmp_path / "authority"
