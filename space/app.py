"""The EditReward Space: rank, compare and batch-score image edits. `python app.py` serves it here."""

import importlib.util
import os
import tempfile

if importlib.util.find_spec("spaces"):
    import spaces  # noqa: F401  # ZeroGPU: before anything that touches CUDA

# Uploads and downloads go with the process.
scratch = tempfile.TemporaryDirectory(prefix="editreward-space-")
os.environ.setdefault("GRADIO_TEMP_DIR", scratch.name)
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

try:
    from editreward_space.service import Service
    from editreward_space.settings import Settings
    from editreward_space.ui import build, launch_options
except ModuleNotFoundError as error:
    raise SystemExit(f'app.py: error: {error}: pip install "editreward[space]" brings it') from error

settings = Settings.from_environment()
demo = build(Service.load(settings))

if __name__ == "__main__":
    demo.launch(**launch_options(settings))
