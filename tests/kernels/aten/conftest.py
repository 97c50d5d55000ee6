"""One PyTorch worker for the session."""

import pytest

from tests.kernels.aten.torch_judge import TorchJudge


@pytest.fixture(scope="session")
def judge():
    judge = TorchJudge()
    if not judge.available():
        pytest.skip(f"PyTorch cannot be imported by {judge.python}: pip install torch==2.13.0")
    yield judge
    judge.close()
