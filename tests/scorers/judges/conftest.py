import pytest
from PIL import Image

from editreward.scorers.judges import endpoint
from tests.helpers.judge_server import judge_server


@pytest.fixture(scope="session", autouse=True)
def warm_client():
    """The client imports half of itself at its first call, which is no part of any deadline here."""
    from editreward import EditGroup, load_scorer

    with judge_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITREWARD_CACHE", "")
        image = Image.new("RGB", (8, 8))
        scorer = load_scorer(f"judge:m@{server.url}", max_calls=2)
        scorer.endpoint.store = None
        scorer([EditGroup([image], "go", [image])])


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("EDITREWARD_CACHE", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "EDITREWARD_JUDGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with judge_server() as made:
        yield made
